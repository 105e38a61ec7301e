//! An operation on shared memory, whose process is killed behind each of its steps.
//!
//! One run is looked at step by step: how many there are, and which of them change shared memory. Then, for each step that was chosen, all
//! is set up anew, a victim does the operation up to that step and is killed, what it left is put right as the supervisor does it, and
//! the survivors go on and look whether anything is wrong.
//!
//! Which steps are chosen says the environment variable `BROODY_STEPS`: `all`, or how many in each series of an operation (those that change
//! shared memory come first, then a fixed stride), or `@k` for the step k alone, to repeat a failure. If it is not set, there are 60, and
//! only some operations are also done by a victim that has not used anything before: its way begins with the same 25,000 steps each time.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broody_os::Pid;
use broody_shm::arena::Arena;
use broody_shm::sync::Deadline;

use crate::trace::{Stop, Traced, clock_code, in_program, is_system_call, marker};
use crate::watch::Watch;

/// Whether the operation has taken place, as the survivors see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It never was.
    Nothing,
    /// It is as if the victim had died just after it.
    Done,
}

/// `Done` or not.
pub fn done_if(done: bool) -> Outcome {
    if done { Outcome::Done } else { Outcome::Nothing }
}

/// How the outcome depends on the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turns {
    /// There is one step before which nothing has happened, and after which it is done.
    Once,
    /// Any outcome is right, where the check finds nothing wrong.
    Whatever,
}

/// An operation, and how to see whether it was broken.
pub struct Operation<S> {
    name: &'static str,
    stage: fn(&'static Arena) -> S,
    warm_up: fn(&S),
    prepare: fn(&S),
    act: fn(&S),
    ready: fn(&mut S),
    event: Option<fn(&mut S) -> bool>,
    check: fn(S) -> Outcome,
    turns: Turns,
    fresh: bool,
    file: Option<fn(&S) -> BorrowedFd<'_>>,
}

impl<S> Operation<S> {
    /// `stage` makes the objects, in the survivor; `act` is what the victim does with them; `check`, in the survivor after the repair, looks for
    /// whatever could be wrong, and says whether it was done. With what it drops the arena is as it was before `stage`.
    pub fn new(
        name: &'static str,
        stage: fn(&'static Arena) -> S,
        act: fn(&S),
        check: fn(S) -> Outcome,
    ) -> Self {
        let (turns, event) = (Turns::Once, None);
        let (fresh, file) = (false, None);
        Self {
            name,
            stage,
            warm_up: |_| {},
            prepare: |_| {},
            act,
            ready: |_| {},
            event,
            check,
            turns,
            fresh,
            file,
        }
    }

    /// In the victim, in one of two series: uses everything once, so that it is mapped and held, and leaves it as it was.
    pub fn warm_up(self, warm_up: fn(&S)) -> Self {
        Self { warm_up, ..self }
    }

    /// In the victim: what comes before the operation.
    pub fn prepare(self, prepare: fn(&S)) -> Self {
        Self { prepare, ..self }
    }

    /// In the survivor, when the victim is about to begin.
    pub fn ready(self, ready: fn(&mut S)) -> Self {
        Self { ready, ..self }
    }

    /// In the survivor: what the operation waits for. Comes when the victim sleeps. If it is killed before that, comes just before that in
    /// one series, and after the repair in the other. `false`: not yet.
    pub fn waits_for(self, event: fn(&mut S) -> bool) -> Self {
        Self { event: Some(event), ..self }
    }

    /// Each time in an arena of its own, whose tables grow with the first use.
    pub fn in_new_arenas(self) -> Self {
        Self { fresh: true, ..self }
    }

    /// It changes another piece of shared memory than the arena.
    pub fn changes(self, file: fn(&S) -> BorrowedFd<'_>) -> Self {
        Self { file: Some(file), ..self }
    }

    /// It may be done and undone on its way: the check sees to what is right.
    pub fn in_any_order(self) -> Self {
        Self { turns: Turns::Whatever, ..self }
    }
}

/// Which steps.
#[derive(Debug, Clone, Copy)]
enum Choice {
    /// Some, in a short time.
    Default,
    All,
    Some(usize),
    One(usize),
}

/// How many steps by default, in each series.
const DEFAULT: usize = 60;

/// With more steps than this, half as many are chosen by default.
const LONG: usize = 50_000;

/// How many arenas are made at most where each step needs one.
const MOST_ARENAS: usize = 300;

/// How many steps at most of a first use whose beginning is that of other operations, too.
const MOST_AGAIN: usize = 500;

/// At most so many of them, evenly spread.
fn thinned(steps: Vec<usize>, most: usize) -> Vec<usize> {
    let count = steps.len().min(most);
    (0..count).map(|number| steps[number * steps.len() / count]).collect()
}

fn choice() -> Choice {
    static CHOICE: OnceLock<Choice> = OnceLock::new();
    *CHOICE.get_or_init(|| {
        let Ok(text) = std::env::var("BROODY_STEPS") else { return Choice::Default };
        let wrong = || panic!("BROODY_STEPS is `all`, a number, or @ and a step: not {text:?}");
        match text.strip_prefix('@') {
            Some(step) => Choice::One(step.parse().unwrap_or_else(|_| wrong())),
            None if text == "all" => Choice::All,
            None => Choice::Some(text.parse().unwrap_or_else(|_| wrong())),
        }
    })
}

/// Keeps this thread, and whom it forks, on one CPU: a step is several times faster so. An arena that is made then does not spin.
pub fn stay_on_one_cpu() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: the sets are plain data, ours, and live through the calls.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&allowed), &raw mut allowed);
        let cpus: Vec<_> =
            (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &allowed)).collect();
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpus[NEXT.fetch_add(1, Ordering::Relaxed) % cpus.len()], &mut one);
        libc::sched_setaffinity(0, size_of_val(&one), &raw const one);
    }
}

/// A run that was looked at.
pub struct Path {
    /// Where it stood after so many steps.
    places: Vec<u64>,
    /// For how many times it was there, then.
    visits: Vec<u32>,
    /// How many times it was anywhere, in all.
    counts: HashMap<u64, u32>,
    /// After which steps shared memory, or somebody's sleep, may have changed.
    changes: Vec<usize>,
}

impl Path {
    /// Where it stood, from the beginning, and after which steps something had changed.
    pub fn new(mut places: Vec<u64>, changes: Vec<usize>) -> Self {
        // The step before the last was already behind the marker's system call.
        places.pop();
        let mut counts = HashMap::new();
        // Where it begins it stands already.
        let count = |place: &u64| {
            let count = counts.entry(*place).or_insert(0u32);
            *count += 1;
            *count
        };
        let visits = std::iter::once(0).chain(places.iter().skip(1).map(count)).collect();
        Self { places, visits, counts, changes }
    }

    /// How many steps: behind the last one is the marker.
    pub fn length(&self) -> usize {
        self.places.len()
    }

    /// Whether it stands in one place at this step, and at no other.
    pub fn comes_once(&self, step: usize) -> bool {
        self.places.get(step).is_none_or(|place| self.counts.get(place).is_none_or(|count| *count == 1))
    }

    /// Where it stood after so many steps, and for how many times; `None` at the end.
    pub fn place(&self, step: usize) -> Option<(u64, u32)> {
        Some((*self.places.get(step)?, self.visits[step]))
    }

    /// The steps to die at, of which there are so many series.
    pub fn chosen(&self, share: usize) -> Vec<usize> {
        let length = self.length();
        let most = match choice() {
            Choice::All => return (0..=length).collect(),
            Choice::One(step) => return vec![step.min(length)],
            Choice::Some(most) => (most / share).max(3),
            Choice::Default if length > LONG => DEFAULT / 2 / share,
            Choice::Default => DEFAULT / share,
        };
        // Up to the next change it is all the same.
        let ends = self.changes.iter().skip(1).chain([&length]);
        let changes: Vec<_> =
            self.changes.iter().zip(ends).map(|(step, end)| self.easy_among(*step..*end)).collect();
        let mut chosen = thinned(changes, most * 9 / 10);
        chosen.extend([0, length]);
        let left = most.saturating_sub(chosen.len()).max(1);
        let stride = (0..left).map(|number| number * length / left + length / left / 2);
        chosen.extend(stride.map(|step| self.easy_among(step..step + 60)));
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    /// One of these steps that is found again soon: not in a loop, if it can be, and not in the kernel's clock, which has several ways.
    fn easy_among(&self, steps: Range<usize>) -> usize {
        let clock = clock_code();
        let ease = |step: &usize| (clock.contains(&self.places[*step]), self.visits[*step]);
        let (start, end) = (steps.start, steps.end.min(self.length()).min(steps.start + 1000));
        (start..end).min_by_key(ease).unwrap_or(start)
    }
}

/// What became of one run.
struct Run {
    /// Whether it came by the step, or to the end.
    stop: Stop,
    outcome: Outcome,
    /// Somebody got on only because his sleep was bounded.
    overslept: bool,
}

/// Says in which step a failure was.
struct Where<'a> {
    name: &'a str,
    series: Series,
    step: usize,
    of: usize,
    place: u64,
}

impl Drop for Where<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { name, series, step, of, place } = self;
            let place = in_program(*place);
            eprintln!(
                "{name}: {series:?}, at step {step} of {of}, at {place:#x}; again: BROODY_STEPS=@{step}"
            );
        }
    }
}

/// What differs between runs of an operation.
#[derive(Debug, Clone, Copy)]
struct Series {
    /// The victim has used the objects before.
    warm: bool,
    /// What the victim waits for comes after its death.
    late: bool,
}

impl<S> Operation<S> {
    /// Kills the victim at all steps that are chosen.
    pub fn kill_everywhere(&self) {
        self.kill_in_series(true, usize::MAX);
        if !matches!(choice(), Choice::Default) {
            self.kill_in_series(false, MOST_AGAIN);
        }
    }

    /// As `kill_everywhere`; a victim that has never used anything is killed by default, too.
    pub fn kill_everywhere_at_first_use(&self) {
        self.kill_in_series(true, usize::MAX);
        self.kill_in_series(false, usize::MAX);
    }

    /// For operations of very many steps: kills the victim after some times, unless steps are asked for.
    pub fn kill_at_times(&self) {
        if !matches!(choice(), Choice::Default) {
            return self.kill_everywhere();
        }
        stay_on_one_cpu();
        let arena = Arena::create(1).unwrap();
        let path = Path::new(Vec::new(), Vec::new());
        let series = Series { warm: true, late: false };
        let start = Instant::now();
        self.kill_at(arena, &path, series, 0);
        let whole = start.elapsed();
        for number in 0..DEFAULT as u32 {
            let mut stage = (self.stage)(arena);
            let victim = self.victim(&stage, true);
            (self.ready)(&mut stage);
            victim.let_go();
            // No event tells that it is so far.
            std::thread::sleep(whole * number / DEFAULT as u32);
            bury(arena, victim);
            (self.check)(stage);
            assert_eq!(arena.objects(), 0, "all objects are gone again");
        }
        eprintln!("{}: killed at {DEFAULT} times, {} ms", self.name, start.elapsed().as_millis());
    }

    fn kill_in_series(&self, warm: bool, most: usize) {
        stay_on_one_cpu();
        let lates: &[bool] = if self.event.is_some() { &[false, true] } else { &[false] };
        let arena = Arena::create(1).unwrap();
        let start = Instant::now();
        let path = self.look(arena, warm);
        // An arena is there as long as this process.
        let most = if self.fresh { most.min(MOST_ARENAS) } else { most };
        let chosen = thinned(path.chosen(lates.len()), most);
        let mut points = Points { tried: 0, missed: 0 };
        for late in lates {
            let series = Series { warm, late: *late };
            points.missed += self.along(arena, &path, &chosen, |step| {
                let arena = if self.fresh { Arena::create(1).unwrap() } else { arena };
                self.kill_at(arena, &path, series, step)
            });
            points.tried += chosen.len();
        }
        self.tell(if warm { "" } else { ", for the first time" }, "killed", &path, points, start);
    }

    /// Stops the waiting process at all steps that are chosen, lets what it waits for happen, and lets it go on: it must not sleep
    /// through it.
    pub fn stop_everywhere(&self) {
        stay_on_one_cpu();
        let arena = Arena::create(1).unwrap();
        let start = Instant::now();
        let path = self.look(arena, true);
        let chosen = path.chosen(2);
        let series = Series { warm: true, late: false };
        let missed = self.along(arena, &path, &chosen, |step| self.stop_at(arena, &path, series, step));
        self.tell("", "stopped", &path, Points { tried: chosen.len(), missed }, start);
    }

    fn tell(&self, series: &str, what: &str, path: &Path, points: Points, start: Instant) {
        let (length, changes, time) = (path.length(), path.changes.len(), start.elapsed().as_millis());
        let Points { tried, missed } = points;
        eprintln!(
            "{}{series}: {length} steps, {changes} matter; {what} at {tried}, {missed} missed; {time} ms",
            self.name
        );
    }

    /// Runs the operation once for each of the steps; gives how many it did not come by.
    fn along(&self, arena: &Arena, path: &Path, chosen: &[usize], run: impl Fn(usize) -> Run) -> usize {
        let (mut before, mut memory, mut missed) = (Outcome::Nothing, None, 0);
        for step in chosen {
            // On a machine that is slow just then, a sleep may be over in the instant before its wake; but not each time.
            let mut tries = (0..3).map(|_| run(*step));
            let Run { stop, outcome, .. } = tries
                .find(|run| !run.overslept)
                .unwrap_or_else(|| panic!("step {step}: somebody was not woken"));
            if stop == Stop::Marker && *step < path.length() {
                missed += 1;
                continue;
            }
            if self.turns == Turns::Once {
                let ends = [(0, Outcome::Nothing), (path.length(), Outcome::Done)];
                for (_, expected) in ends.into_iter().filter(|(end, _)| end == step) {
                    assert_eq!(outcome, expected, "step {step} of {}", path.length());
                }
                // Where it comes several times, it may be before or behind where the first run was: loops are not as long each time.
                if path.comes_once(*step) {
                    assert!(outcome >= before, "step {step}: what was done is not done any more");
                    before = outcome;
                }
            }
            // Tables and chunks of small bodies grow a few times; what is lost each time shows.
            let allocated = arena.allocated();
            let first = *memory.get_or_insert(allocated);
            assert!(allocated <= first + (1 << 20), "memory has grown from {first} to {allocated} bytes");
        }
        missed
    }

    fn victim(&self, stage: &S, warm: bool) -> Traced {
        Traced::start(|| {
            if warm {
                (self.warm_up)(stage);
            }
            (self.prepare)(stage);
            marker();
            (self.act)(stage);
            marker();
        })
    }

    /// Runs the operation as a whole, step by step.
    fn look(&self, arena: &'static Arena, warm: bool) -> Path {
        if !self.fresh {
            // Once before, so that the tables have grown to where they stay.
            let mut stage = (self.stage)(arena);
            let victim = self.victim(&stage, warm);
            (self.ready)(&mut stage);
            let mut event = Event(self.event);
            assert_eq!(victim.go_on(&mut || event.happen(&mut stage)), Stop::Marker);
            bury(arena, victim);
            (self.check)(stage);
        }
        let mut stage = (self.stage)(arena);
        let victim = self.victim(&stage, warm);
        (self.ready)(&mut stage);
        let file = self.file.map(|file| Watch::new(file(&stage)));
        let mut watches: Vec<_> = file.into_iter().chain([Watch::new(arena.descriptor())]).collect();
        let (mut places, mut changes) = (Vec::new(), Vec::new());
        let mut event = Event(self.event);
        loop {
            let place = victim.place();
            places.push(place);
            assert!(places.len() < 5_000_000, "{}: it does not come to its end", self.name);
            let calls = is_system_call(place);
            let mut asleep = || event.happen(&mut stage);
            let stop = match self.event {
                Some(_) => victim.step(place, Some(&mut asleep)),
                None => victim.step(place, None),
            };
            if stop == Stop::Marker {
                break;
            }
            let changed =
                watches.iter_mut().filter_map(|watch| watch.has_changed(calls).then_some(())).count();
            if changed > 0 || calls {
                changes.push(places.len());
            }
        }
        bury(arena, victim);
        (self.check)(stage);
        Path::new(places, changes)
    }

    fn kill_at(&self, arena: &'static Arena, path: &Path, series: Series, step: usize) -> Run {
        let (objects, rescues) = (arena.objects(), arena.rescues());
        let mut context = Where { name: self.name, series, step, of: path.length(), place: 0 };
        let mut stage = (self.stage)(arena);
        let victim = self.victim(&stage, series.warm);
        (self.ready)(&mut stage);
        let mut event = Event(self.event);
        let stop = run_to(&victim, path, step, &mut || event.happen(&mut stage));
        context.place = victim.place();
        if !series.late {
            event.happen(&mut stage);
        }
        bury(arena, victim);
        event.happen(&mut stage);
        let outcome = (self.check)(stage);
        assert_eq!(arena.objects(), objects, "all objects are gone again");
        Run { stop, outcome, overslept: arena.rescues() != rescues }
    }

    fn stop_at(&self, arena: &'static Arena, path: &Path, series: Series, step: usize) -> Run {
        let (objects, rescues) = (arena.objects(), arena.rescues());
        let mut context = Where { name: self.name, series, step, of: path.length(), place: 0 };
        let mut stage = (self.stage)(arena);
        let sleeper = self.victim(&stage, series.warm);
        (self.ready)(&mut stage);
        let mut event = Event(self.event);
        let stop = run_to(&sleeper, path, step, &mut || event.happen(&mut stage));
        context.place = sleeper.place();
        event.happen(&mut stage);
        if stop == Stop::Trap {
            assert_eq!(sleeper.go_on(&mut || event.happen(&mut stage)), Stop::Marker);
        }
        let overslept = arena.rescues() != rescues;
        bury(arena, sleeper);
        (self.check)(stage);
        assert_eq!(arena.objects(), objects, "all objects are gone again");
        Run { stop, outcome: done_if(step > 0), overslept }
    }
}

/// How many steps were to be reached, and how many the victim did not come by that time.
#[derive(Clone, Copy)]
struct Points {
    tried: usize,
    missed: usize,
}

/// What is waited for: happens once.
struct Event<S>(Option<fn(&mut S) -> bool>);

impl<S> Event<S> {
    fn happen(&mut self, stage: &mut S) {
        if self.0.is_some_and(|event| event(stage)) {
            self.0 = None;
        }
    }
}

/// Puts right what the dead process `pid` has left, with the supervisor's patience: what cannot be done now is done later.
pub fn put_right(arena: &Arena, pid: Pid) {
    const PATIENCE: Duration = Duration::from_millis(5);
    let end = Instant::now() + broody_tests::PATIENCE;
    let mut done = arena.recover_process(pid, Deadline::after(PATIENCE));
    while !done {
        assert!(Instant::now() < end, "what {pid} has left cannot be put right");
        done = arena.recover_all(Deadline::after(PATIENCE));
    }
}

/// Kills a process where it stands, and does what the supervisor does then.
pub fn bury(arena: &Arena, victim: Traced) {
    victim.kill();
    put_right(arena, victim.pid());
    victim.reap();
}

/// Runs the victim to a step of the path.
pub fn run_to(victim: &Traced, path: &Path, step: usize, asleep: &mut dyn FnMut()) -> Stop {
    let Some(place) = path.places.get(step) else {
        return victim.go_on(asleep);
    };
    for _ in 0..path.visits[step] {
        let stop = victim.go_to(*place, asleep).expect("a breakpoint can be set where it ran");
        if stop == Stop::Marker {
            // It takes another path this time, for example since a number in /proc has another length.
            return stop;
        }
    }
    Stop::Trap
}
