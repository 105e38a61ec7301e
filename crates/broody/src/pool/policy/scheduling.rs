//! Which policy a pool has, as its users say it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{Fcfs, Mlfq, Policy, Priorities, RoundRobin, Sjf};
use crate::{Error, Result};

/// In which order the tasks of a pool run, and whether they take turns.
///
/// Each can be said by its name alone, with the defaults of [`round_robin`](Self::round_robin) and [`mlfq`](Self::mlfq):
///
/// ```
/// use broody::policy::Scheduling;
///
/// let scheduling: Scheduling = "mlfq".parse()?;
/// assert_eq!(scheduling.to_string(), "mlfq");
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Scheduling {
    /// First come, first served; the default.
    #[default]
    Fcfs,
    /// Shortest job first, by the tasks' costs or by what is learned; each to its end.
    Sjf,
    /// In turns.
    RoundRobin {
        /// How long a turn is.
        quantum: Duration,
    },
    /// In turns, short tasks first: see [`Mlfq`].
    Mlfq {
        /// How many levels.
        levels: usize,
        /// How long a turn is at the top; twice as long on each next level, and to its end at the last one.
        quantum: Duration,
        /// How often all are lifted to the top.
        boost: Duration,
    },
    /// What this makes, once for each priority that occurs.
    Custom(Arc<dyn Fn() -> Box<dyn Policy> + Send + Sync>),
}

impl Scheduling {
    /// Round robin with turns of 20 ms: stopping one process and continuing another costs tens of microseconds, less than a
    /// hundredth of that.
    pub fn round_robin() -> Self {
        Self::RoundRobin { quantum: Duration::from_millis(20) }
    }

    /// Three levels: turns of 8 ms, of 16 ms, and the bottom (the example of Silberschatz, Operating System Concepts); and a boost each second.
    ///
    /// What takes less than 8 ms is never stopped. Until it is at the bottom a task runs for 24 ms. A boost is rare enough to leave the
    /// long ones most of the time at the bottom, where they run one after the other, and frequent enough that none is held up for what a
    /// person calls long.
    pub fn mlfq() -> Self {
        Self::Mlfq { levels: 3, quantum: Duration::from_millis(8), boost: Duration::from_secs(1) }
    }

    /// A policy of the caller's own.
    pub fn custom(make: impl Fn() -> Box<dyn Policy> + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(make))
    }

    /// The policy for one pool, with [`Priorities`] around it.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for values that cannot work: see [`RoundRobin::new`] and [`Mlfq::new`].
    pub fn build(&self) -> Result<Box<dyn Policy>> {
        // Made once here for the errors alone.
        self.plain()?;
        let scheduling = self.clone();
        Ok(Box::new(Priorities::new(move || scheduling.plain().unwrap_or_else(|_| Box::<Fcfs>::default()))))
    }

    fn plain(&self) -> Result<Box<dyn Policy>> {
        Ok(match self {
            Self::Fcfs => Box::<Fcfs>::default(),
            Self::Sjf => Box::<Sjf>::default(),
            Self::RoundRobin { quantum } => Box::new(RoundRobin::new(*quantum)?),
            Self::Mlfq { levels, quantum, boost } => Box::new(Mlfq::new(*levels, *quantum, *boost)?),
            Self::Custom(make) => make(),
        })
    }
}

impl FromStr for Scheduling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "fcfs" => Ok(Self::Fcfs),
            "sjf" => Ok(Self::Sjf),
            "round_robin" => Ok(Self::round_robin()),
            "mlfq" => Ok(Self::mlfq()),
            _ => Err(Error::Invalid {
                what: format!("there is no scheduling {name:?}: it is fcfs, sjf, round_robin or mlfq"),
            }),
        }
    }
}

/// The name, as it is parsed; `custom` for a custom one.
impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fcfs => "fcfs",
            Self::Sjf => "sjf",
            Self::RoundRobin { .. } => "round_robin",
            Self::Mlfq { .. } => "mlfq",
            Self::Custom(_) => "custom",
        })
    }
}

impl fmt::Debug for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundRobin { quantum } => f.debug_struct("RoundRobin").field("quantum", quantum).finish(),
            Self::Mlfq { levels, quantum, boost } => f
                .debug_struct("Mlfq")
                .field("levels", levels)
                .field("quantum", quantum)
                .field("boost", boost)
                .finish(),
            Self::Fcfs => f.write_str("Fcfs"),
            Self::Sjf => f.write_str("Sjf"),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_shown() {
        for name in ["fcfs", "sjf", "round_robin", "mlfq"] {
            let scheduling: Scheduling = name.parse().unwrap();
            assert_eq!(scheduling.to_string(), name);
            assert!(scheduling.build().is_ok());
        }
        let error = "lottery".parse::<Scheduling>().unwrap_err();
        assert!(matches!(&error, Error::Invalid { what } if what.contains("lottery")));
        assert_eq!(format!("{:?}", Scheduling::round_robin()), "RoundRobin { quantum: 20ms }");
    }

    #[test]
    fn values_that_cannot_work_are_errors_of_build() {
        let second = Duration::from_secs(1);
        for invalid in [
            Scheduling::RoundRobin { quantum: Duration::ZERO },
            Scheduling::Mlfq { levels: 0, quantum: second, boost: second },
            Scheduling::Mlfq { levels: 3, quantum: Duration::ZERO, boost: second },
            Scheduling::Mlfq { levels: 3, quantum: second, boost: Duration::ZERO },
        ] {
            assert!(matches!(invalid.build(), Err(Error::Invalid { .. })), "{invalid:?}");
        }
        assert!(Scheduling::custom(|| Box::<Fcfs>::default()).build().is_ok());
    }
}
