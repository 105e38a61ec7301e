//! Processes that use everything at once, at random, and are killed at random, for a while: in the end nothing is wrong.
//!
//! `BROODY_CHAOS_SECONDS` says for how long (30 if it is not set), `BROODY_CHAOS_SEED` repeats the choices of another run, as far as the
//! machine lets it.

mod shared;
mod work;

use std::time::{Duration, Instant};

use broody::{Child, ExitStatus};
use broody_os::{fork, signals};
use broody_tests::{PATIENCE, Random, eventually, observer};

use shared::Shared;

/// How many processes there are at a time.
const PROCESSES: usize = 8;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// The processes that there are.
struct Crowd {
    shared: Shared,
    random: Random,
    members: Vec<Child<()>>,
    started: u32,
    killed: u32,
}

impl Crowd {
    fn start(&mut self) -> Child<()> {
        let number = self.started;
        self.started += 1;
        let seed = self.random.below(u64::MAX);
        broody::spawn(work::work, (self.shared.clone(), number, seed)).unwrap()
    }

    /// Somebody is killed, or stopped for a while; whoever was killed is replaced.
    fn strike(&mut self) {
        let place = self.random.below(PROCESSES as u64) as usize;
        let member = &self.members[place];
        assert!(member.exit_status().is_none(), "{:?}: {:?}", member.exit_status(), member.join());
        if self.random.below(8) == 0 {
            assert!(fork::kill_child(member.pid(), signals::SIGSTOP).unwrap());
            std::thread::sleep(Duration::from_micros(self.random.below(10_000)));
            assert!(fork::kill_child(member.pid(), signals::SIGCONT).unwrap());
            return;
        }
        member.kill().unwrap();
        self.killed += 1;
        // In every other case the next one dies before the first one is put right.
        if self.random.below(2) == 0 {
            self.await_death(place);
        }
        let next = self.start();
        let last = std::mem::replace(&mut self.members[place], next);
        let ended = last.wait_timeout(PATIENCE).unwrap();
        assert_eq!(ended, Some(ExitStatus::Signal(signals::SIGKILL)), "{:?}", last.join());
    }

    fn await_death(&self, place: usize) {
        assert!(self.members[place].wait_timeout(PATIENCE).unwrap().is_some());
    }
}

#[test]
fn random_deaths_leave_nothing_wrong() {
    let time = Duration::from_secs(number_from("BROODY_CHAOS_SECONDS").unwrap_or(30));
    let seed = number_from("BROODY_CHAOS_SEED").unwrap_or_else(broody_tests::seed);
    eprintln!("BROODY_CHAOS_SEED={seed}");
    // So that the arena is there.
    broody::spawn(|(): ()| (), ()).unwrap().join().unwrap();
    let shared = Shared::new(time);
    let arena = observer();
    let mut crowd = Crowd { shared, random: Random::new(seed), members: Vec::new(), started: 0, killed: 0 };
    for _ in 0..PROCESSES {
        let member = crowd.start();
        crowd.members.push(member);
    }
    let end = Instant::now() + time;
    let mut progress = (0, Instant::now());
    while Instant::now() < end && crowd.started < crowd.shared.most_processes() {
        std::thread::sleep(Duration::from_micros(crowd.random.below(5000)));
        crowd.strike();
        let done = crowd.shared.progress();
        if done != progress.0 {
            progress = (done, Instant::now());
        }
        assert!(progress.1.elapsed() < PATIENCE, "nobody gets on");
    }
    let Crowd { shared, members, started, killed, .. } = crowd;
    shared.stop();
    for member in &members {
        assert!(member.join_timeout(PATIENCE).unwrap().is_some(), "it comes to its end");
    }
    let done = shared.progress();
    shared.check(started, killed);
    drop((shared, members));
    eprintln!(
        "{started} processes did {done} things, {killed} were killed; {} sleepers woke by themselves",
        arena.rescues()
    );
    eventually("all objects are gone", || arena.objects() == 0);
    eventually("all memory is back", || arena.allocated() < 1 << 20);
}
