//! The classic three programs about zombies, first with the standard library alone and then with broody. After each step: what /proc
//! shows.
//!
//! ```sh
//! cargo run --example zombies
//! ```

use std::process::Command;
use std::time::Duration;

use broody_examples::Census;
use clap::Parser;

/// Three programs that make zombies, and what becomes of them.
#[derive(Parser)]
struct Options {
    /// How long a step takes, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    step: u64,
}

/// Starts a child that ends at once, and never asks for its end.
type Start = fn() -> broody::Result<()>;

fn with_std() -> broody::Result<()> {
    // The handle is dropped: nobody will ever wait for this child.
    let _ = Command::new("true").spawn();
    Ok(())
}

fn with_broody() -> broody::Result<()> {
    broody::spawn(|_: ()| (), ()).map(drop)
}

struct Stage {
    step: Duration,
    start: Start,
}

impl Stage {
    fn pause(&self, what: &str) {
        std::thread::sleep(self.step);
        println!("    {what:<34} {}", Census::take());
    }

    fn a_child_a_second(&self) -> broody::Result<()> {
        println!("  1. a child a second, without a join");
        for number in 1..=3 {
            (self.start)()?;
            self.pause(&format!("child {number} has been started and ended"));
        }
        Ok(())
    }

    fn one_child_and_a_long_sleep(&self) -> broody::Result<()> {
        println!("  2. one child and a long sleep");
        (self.start)()?;
        for _ in 0..3 {
            self.pause("still asleep");
        }
        Ok(())
    }

    fn three_children_in_a_row(&self) -> broody::Result<()> {
        println!("  3. three children in a row");
        for _ in 0..3 {
            (self.start)()?;
        }
        self.pause("three children have ended");
        Ok(())
    }

    fn play(&self, title: &str) -> broody::Result<()> {
        println!("{title}");
        self.a_child_a_second()?;
        self.one_child_and_a_long_sleep()?;
        self.three_children_in_a_row()
    }
}

fn main() -> broody::Result<()> {
    broody::init();
    let options = Options::parse();
    let step = Duration::from_millis(options.step);
    Stage { step, start: with_broody }.play("With broody:")?;
    // Last, since these zombies stay until this program ends.
    Stage { step, start: with_std }.play("With std::process::Command:")
}
