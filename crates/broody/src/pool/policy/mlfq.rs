//! Multi-level feedback queues.
//!
//! A task's level follows from how long it has run since it was last lifted to the top: the first quantum is level 0, the next two
//! are level 1, the next four level 2, and so on, and whatever is beyond that is the bottom. It is therefore the same whether it ran in one go or in many pieces, and a task that
//! always makes room just before its quantum is over gains nothing by it.
//!
//! At the bottom there are no turns: whoever is first in line there runs to its end, or to the next boost. Tasks of unknown length that
//! take turns all end late, when all are nearly done; one after the other they end half as late on average.
//!
//! Boosts happen at the multiples of their period. What waits is lifted when the policy is next asked for something, into the top line
//! behind those that are there. What runs counts from the boost on, and finishes the quantum that it has.
//!
//! See the chapter "Scheduling: The Multi-Level Feedback Queue" of Arpaci-Dusseau, Operating Systems: Three Easy Pieces; its bottom level takes
//! turns. First come, first served at the bottom is that of the chapter "CPU Scheduling" of Silberschatz, Operating System
//! Concepts.

use std::time::Duration;

use super::line::Line;
use super::{Among, Job, Policy};
use crate::{Error, Result};

/// The most levels: the quantum of the last one would be longer than a task can run.
const MOST_LEVELS: usize = 32;

/// Multi-level feedback queues: short tasks run at once, long ones later, and the longest one after the other.
///
/// A newcomer is at the top, and a task that has used up its level's quantum goes one level down, where the quantum is twice as long.
/// A task of a lower level makes room at once for one of a higher level; on the same level turns are taken, but at the bottom, where each
/// runs to its end. So that nothing starves, all are lifted to the top from time to time. For turns at the bottom too, add levels until
/// nothing gets there: with 20 levels of 10 ms and more, it takes hours.
#[derive(Debug)]
pub struct Mlfq {
    quantum: Duration,
    boost: Duration,
    /// From the top.
    levels: Vec<Line>,
    /// The number of the last boost that has lifted those that wait.
    boosts: u64,
}

/// Where a job is.
struct Place {
    level: usize,
    /// What is left of its quantum there; at the bottom, until a boost has lifted it and the quantum of the top is over.
    left: Duration,
}

/// What a job's note says: how long it had run when a boost lifted it, and which one that was.
///
/// The time is kept in microseconds (48 bits, nine years), and of the boost's number 16 bits. A job whose note is older than 65,536
/// boosts may so be taken for one that was lifted already; the next boost mends that.
struct Lifted {
    boost: u16,
    ran: Duration,
}

impl Lifted {
    fn of(job: &Job) -> Self {
        Self { boost: (job.note >> 48) as u16, ran: Duration::from_micros(job.note & (u64::MAX >> 16)) }
    }

    fn note(&self) -> u64 {
        let microseconds = u64::try_from(self.ran.as_micros()).unwrap_or(u64::MAX).min(u64::MAX >> 16);
        (u64::from(self.boost) << 48) | microseconds
    }
}

impl Mlfq {
    /// With `levels`, of which the top one has turns of `quantum`, and a boost each time `boost` has passed.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for no levels or more than 32, and for a quantum or a boost of zero.
    pub fn new(levels: usize, quantum: Duration, boost: Duration) -> Result<Self> {
        let invalid = |what: String| Err(Error::Invalid { what });
        if levels == 0 || levels > MOST_LEVELS {
            return invalid(format!("mlfq has 1 to {MOST_LEVELS} levels, not {levels}"));
        }
        if quantum.is_zero() {
            return invalid("a quantum is longer than zero; 10 ms are usual".to_owned());
        }
        if boost.is_zero() {
            return invalid("the time between boosts is longer than zero; 1 s is usual".to_owned());
        }
        Ok(Self { quantum, boost, levels: (0..levels).map(|_| Line::default()).collect(), boosts: 0 })
    }

    /// How many boosts there have been, and how long ago the last one was.
    fn last_boost(&self, now: Duration) -> (u64, Duration) {
        let ago = Duration::from_nanos_u128(now.as_nanos() % self.boost.as_nanos());
        (u64::try_from(now.as_nanos() / self.boost.as_nanos()).unwrap_or(u64::MAX), ago)
    }

    /// Brings the note of a job up to date that `waits`, or that has been running since its note was written.
    fn refresh(&self, job: &mut Job, waits: bool, now: Duration) {
        let (boosts, ago) = self.last_boost(now);
        if Lifted::of(job).boost != boosts as u16 {
            let ran = if waits { job.ran } else { job.ran.saturating_sub(ago) };
            job.note = Lifted { boost: boosts as u16, ran }.note();
        }
    }

    fn place(&self, job: &Job, now: Duration) -> Place {
        let mut job = *job;
        self.refresh(&mut job, false, now);
        let mut used = job.ran.saturating_sub(Lifted::of(&job).ran);
        let mut quantum = self.quantum;
        for level in 0..self.levels.len() - 1 {
            if used < quantum {
                return Place { level, left: quantum - used };
            }
            used -= quantum;
            quantum = quantum.saturating_mul(2);
        }
        Place { level: self.levels.len() - 1, left: self.until_sunk_again(now) }
    }

    /// From now to the next boost, and the quantum of the top.
    fn until_sunk_again(&self, now: Duration) -> Duration {
        let (_, ago) = self.last_boost(now);
        (self.boost - ago).saturating_add(self.quantum)
    }

    /// Lifts all that wait, if it is time. Takes as long as there were quanta used up since the last time.
    fn lift(&mut self, now: Duration) {
        let (boosts, _) = self.last_boost(now);
        if boosts <= self.boosts {
            return;
        }
        self.boosts = boosts;
        if let Some((top, lower)) = self.levels.split_first_mut() {
            for line in lower {
                while let Some(job) = line.pop(Among::All) {
                    top.push_back(job);
                }
            }
        }
    }
}

impl Policy for Mlfq {
    fn add(&mut self, mut job: Job, now: Duration) {
        self.lift(now);
        self.refresh(&mut job, false, now);
        let level = self.place(&job, now).level;
        self.levels[level].push_back(job);
    }

    fn next(&mut self, among: Among, now: Duration) -> Option<Job> {
        self.lift(now);
        let mut job = self.levels.iter_mut().find_map(|line| line.pop(among))?;
        self.refresh(&mut job, true, now);
        Some(job)
    }

    fn give_back(&mut self, mut job: Job, now: Duration) {
        self.lift(now);
        self.refresh(&mut job, false, now);
        let level = self.place(&job, now).level;
        self.levels[level].push_front(job);
    }

    fn quantum(&self, job: &Job, now: Duration) -> Option<Duration> {
        Some(self.place(job, now).left)
    }

    /// The youngest on the lowest level, if something waits on a higher one.
    fn displaces(&self, running: &mut dyn Iterator<Item = Job>, now: Duration) -> Option<u64> {
        let mut waits = self.levels.iter().position(|line| !line.is_empty())?;
        if self.last_boost(now).0 > self.boosts {
            waits = 0;
        }
        let (level, id) = running.map(|job| (self.place(&job, now).level, job.id)).max()?;
        (waits < level).then_some(id)
    }

    fn retain(&mut self, keep: &mut dyn FnMut(&mut Job) -> bool) {
        self.levels.iter_mut().for_each(|line| line.retain(keep));
    }

    fn is_empty(&self) -> bool {
        self.levels.iter().all(Line::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn begun(id: u64, ran: u64) -> Job {
        Job { begun: true, ran: ms(ran), ..Job::new(id, 0, 1) }
    }

    #[test]
    fn the_level_follows_from_what_was_used() {
        let mlfq = Mlfq::new(3, ms(10), ms(1000)).unwrap();
        let place = |ran| {
            let place = mlfq.place(&begun(0, ran), ms(500));
            (place.level, place.left.as_millis())
        };
        assert_eq!([place(0), place(4), place(10)], [(0, 10), (0, 6), (1, 20)]);
        assert_eq!([place(29), place(30), place(400)], [(1, 1), (2, 510), (2, 510)]);
    }

    #[test]
    fn what_runs_during_a_boost_counts_from_then_on() {
        let mut mlfq = Mlfq::new(3, ms(10), ms(1000)).unwrap();
        mlfq.add(begun(0, 900), ms(950));
        let job = mlfq.next(Among::All, ms(950)).unwrap();
        assert_eq!(mlfq.place(&job, ms(950)).level, 2);
        // 62 ms more: 50 before the boost and 12 after it.
        assert_eq!(mlfq.place(&Job { ran: ms(962), ..job }, ms(1012)).level, 1);
        mlfq.add(Job { ran: ms(962), ..job }, ms(1012));
        mlfq.add(Job::new(1, 0, 1), ms(1013));
        assert_eq!(mlfq.next(Among::All, ms(1013)).unwrap().id, 1);
        let job = mlfq.next(Among::All, ms(1013)).unwrap();
        assert_eq!(mlfq.quantum(&job, ms(1013)), Some(ms(18)));
    }

    #[test]
    fn what_waits_during_a_boost_has_the_quantum_of_the_top() {
        let mut mlfq = Mlfq::new(3, ms(10), ms(1000)).unwrap();
        mlfq.add(begun(0, 100), ms(900));
        let job = mlfq.next(Among::All, ms(1200)).unwrap();
        assert_eq!(mlfq.quantum(&job, ms(1200)), Some(ms(10)));
        assert_eq!(mlfq.place(&Job { ran: ms(110), ..job }, ms(1210)).level, 1);
    }

    #[test]
    fn the_lowest_makes_room_and_a_boost_makes_all_equal() {
        let mut mlfq = Mlfq::new(3, ms(10), ms(1000)).unwrap();
        let running = [begun(0, 15), begun(1, 40), begun(2, 35), begun(3, 5)];
        let displaced = |mlfq: &Mlfq, now| mlfq.displaces(&mut running.iter().copied(), now);
        assert_eq!(displaced(&mlfq, ms(500)), None);
        mlfq.add(begun(4, 31), ms(500));
        assert_eq!(displaced(&mlfq, ms(500)), None);
        mlfq.add(Job::new(5, 0, 1), ms(500));
        assert_eq!(displaced(&mlfq, ms(500)), Some(2));
        assert_eq!(displaced(&mlfq, ms(1000)), None);
        assert_eq!(mlfq.next(Among::All, ms(1000)).map(|job| job.id), Some(5));
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        for (levels, quantum, boost) in
            [(0, ms(1), ms(1)), (33, ms(1), ms(1)), (1, ms(0), ms(1)), (1, ms(1), ms(0))]
        {
            assert!(matches!(Mlfq::new(levels, quantum, boost), Err(Error::Invalid { .. })));
        }
        let extreme = Mlfq::new(32, Duration::MAX, Duration::MAX).unwrap();
        assert_eq!(extreme.quantum(&begun(0, 5), Duration::MAX).map(|left| left > ms(0)), Some(true));
    }
}
