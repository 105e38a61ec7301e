//! What is true of any workload, under every policy, with any number of processes to spare.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::floor::Floor;
use super::{Action, Job, Scheduling, SimulatedTask, Simulation, Times};

const MS: Duration = Duration::from_millis(1);

fn scheduling() -> impl Strategy<Value = Scheduling> {
    let quantum = (1u32..12).prop_map(|quantum| quantum * MS);
    prop_oneof![
        Just(Scheduling::Fcfs),
        Just(Scheduling::Sjf),
        quantum.clone().prop_map(|quantum| Scheduling::RoundRobin { quantum }),
        (1usize..5, quantum, 10u32..200).prop_map(|(levels, quantum, boost)| Scheduling::Mlfq {
            levels,
            quantum,
            boost: boost * MS
        }),
    ]
}

fn preemptive() -> impl Strategy<Value = Scheduling> {
    scheduling().prop_filter("it never pauses", |scheduling| {
        matches!(scheduling, Scheduling::RoundRobin { .. } | Scheduling::Mlfq { .. })
    })
}

prop_compose! {
    fn task()(
        arrives in 0u32..60,
        runs in prop_oneof![8 => 0u32..12, 2 => 20u32..120],
        function in 0u64..3,
        cost in prop_oneof![2 => Just(None), 1 => (0.0..9.0f64).prop_map(Some)],
        priority in prop_oneof![4 => Just(0), 1 => -1..2],
    ) -> SimulatedTask {
        SimulatedTask { function, cost, priority, ..SimulatedTask::new(arrives * MS, runs * MS) }
    }
}

/// Tasks in the order of their arrival; some of them are equal, and so handed in together.
fn tasks() -> impl Strategy<Value = Vec<SimulatedTask>> {
    prop::collection::vec((task(), 1usize..4), 1..14).prop_map(|groups| {
        let mut tasks: Vec<_> =
            groups.into_iter().flat_map(|(task, count)| std::iter::repeat_n(task, count)).collect();
        tasks.sort_by_key(|task| task.arrives);
        tasks
    })
}

fn run(
    scheduling: &Scheduling,
    simulation: Simulation,
    tasks: &[SimulatedTask],
) -> (Vec<Times>, Vec<(Duration, Action)>) {
    let mut policy = scheduling.build().unwrap();
    let mut seen = Vec::new();
    let times = simulation.run_seen(policy.as_mut(), tasks, &mut |now, action| seen.push((now, action)));
    assert!(policy.is_empty());
    (times, seen)
}

/// When each task was running.
fn spans(times: &[Times], seen: &[(Duration, Action)]) -> Vec<Vec<(Duration, Duration)>> {
    let mut spans = vec![Vec::new(); times.len()];
    for (now, action) in seen {
        match action {
            Action::Start(job) => spans[job.id as usize].push((*now, Duration::MAX)),
            Action::Resume(id) => spans[*id as usize].push((*now, Duration::MAX)),
            Action::Pause(id) => spans[*id as usize].last_mut().unwrap().1 = *now,
        }
    }
    for (spans, times) in spans.iter_mut().zip(times) {
        spans.last_mut().unwrap().1 = times.ended;
    }
    spans
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_task_runs_for_exactly_its_time_and_no_place_is_empty_for_nothing(
        scheduling in scheduling(),
        tasks in tasks(),
        workers in 1usize..4,
        spares in 0usize..4,
    ) {
        let (times, seen) = run(&scheduling, Simulation::new(workers).spares(spares), &tasks);
        let starts: Vec<u64> =
            seen.iter().filter_map(|(_, action)| if let Action::Start(job) = action { Some(job.id) } else { None }).collect();
        prop_assert_eq!(starts.len(), tasks.len());
        prop_assert_eq!(starts.iter().collect::<BTreeSet<_>>().len(), tasks.len());
        let spans = spans(&times, &seen);
        for (task, spans) in tasks.iter().zip(&spans) {
            prop_assert_eq!(spans.iter().map(|(from, to)| *to - *from).sum::<Duration>(), task.runs);
            prop_assert!(spans[0].0 >= task.arrives && spans.is_sorted());
        }
        let moments: BTreeSet<Duration> = spans.iter().flatten().flat_map(|(from, to)| [*from, *to]).collect();
        for now in moments {
            let running = spans.iter().flatten().filter(|(from, to)| *from <= now && now < *to).count();
            // What takes no time begins and ends at a moment at which it is not seen to run.
            let present = times.iter().filter(|times| times.arrived <= now && times.ended > now).count();
            let begun = times.iter().filter(|times| times.started <= now && times.ended > now).count();
            prop_assert!(running <= workers);
            prop_assert!(begun - running <= spares);
            prop_assert_eq!(running, present.min(workers), "at {:?}", now);
        }
    }

    #[test]
    fn the_same_workload_has_the_same_course(scheduling in scheduling(), tasks in tasks(), workers in 1usize..4, spares in 0usize..4) {
        let simulation = Simulation::new(workers).spares(spares);
        prop_assert_eq!(run(&scheduling, simulation, &tasks), run(&scheduling, simulation, &tasks));
    }

    #[test]
    fn tasks_handed_in_together_fare_as_those_handed_in_one_by_one(
        scheduling in scheduling().prop_filter("it looks at functions", |it| !matches!(it, Scheduling::Sjf)),
        tasks in tasks(),
        workers in 1usize..4,
        spares in 0usize..4,
    ) {
        let simulation = Simulation::new(workers).spares(spares);
        // No two are of one function, and so none are together.
        let single: Vec<_> =
            (0..).zip(&tasks).map(|(function, task)| SimulatedTask { function, ..*task }).collect();
        prop_assert_eq!(run(&scheduling, simulation, &tasks).0, run(&scheduling, simulation, &single).0);
    }

    #[test]
    fn without_spare_processes_nothing_is_paused(scheduling in preemptive(), tasks in tasks(), workers in 1usize..4) {
        let (_, seen) = run(&scheduling, Simulation::new(workers).spares(0), &tasks);
        prop_assert!(seen.iter().all(|(_, action)| matches!(action, Action::Start(_))));
    }

    /// What pools have to bear: tasks that end when they like, processes that die and come back, pauses that come too late.
    #[test]
    fn whatever_happens_every_task_ends_once(
        scheduling in scheduling(),
        events in prop::collection::vec(event(), 1..120),
        workers in 1usize..4,
        spares in 0usize..4,
    ) {
        let mut world = World::new(&scheduling, workers, workers + spares);
        for event in events {
            world.happen(event)?;
        }
        world.happen(Event::Processes(workers + spares))?;
        while let Some(id) = world.running.first().copied() {
            world.end(id)?;
        }
        prop_assert!(world.paused.is_empty());
        prop_assert_eq!(world.ended.len() as u64, world.handed_in);
        prop_assert!(world.ended.values().all(|count| *count == 1));
    }
}

proptest! {
    // Each is long.
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_starves_beside_an_endless_stream(
        scheduling in scheduling().prop_filter("it starves long ones", |it| !matches!(it, Scheduling::Sjf)),
        long in prop::collection::vec(20u32..80, 1..4),
        step in 2u32..9,
        workers in 1u32..3,
        spares in 0usize..4,
    ) {
        let mut tasks: Vec<_> = long.iter().map(|runs| SimulatedTask::new(Duration::ZERO, *runs * MS)).collect();
        // Workers always have something newer to do, which takes all their time; the first tasks end all the same: a boost each
        // 200 ms gives each at least 1 ms, and there are up to 240 ms.
        let end = 60_000 * MS;
        let stream = (0..end.as_millis() as u32 / step).map(|at| SimulatedTask::new(at * step * MS, step * workers * MS));
        tasks.extend(stream);
        let (times, _) = run(&scheduling, Simulation::new(workers as usize).spares(spares), &tasks);
        for times in &times[..long.len()] {
            prop_assert!(times.ended < end, "{:?}", times);
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    HandIn {
        tasks: usize,
        function: u64,
        priority: i32,
    },
    Pass(u32),
    /// One that runs, or with `paused` one that was told to pause, comes to its end.
    End {
        which: usize,
        paused: bool,
    },
    /// Its process dies, and it is tried again.
    Die {
        which: usize,
        paused: bool,
    },
    Processes(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1usize..4, 0u64..3, -1i32..2)
            .prop_map(|(tasks, function, priority)| Event::HandIn { tasks, function, priority }),
        6 => (0u32..30).prop_map(Event::Pass),
        4 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, paused)| Event::End { which, paused }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, paused)| Event::Die { which, paused }),
        1 => (0usize..7).prop_map(Event::Processes),
    ]
}

/// A pool's side of a floor.
struct World {
    policy: Box<dyn super::Policy>,
    floor: Floor,
    now: Duration,
    workers: usize,
    processes: usize,
    handed_in: u64,
    running: BTreeSet<u64>,
    paused: BTreeSet<u64>,
    ended: BTreeMap<u64, usize>,
}

impl World {
    fn new(scheduling: &Scheduling, workers: usize, processes: usize) -> Self {
        Self {
            policy: scheduling.build().unwrap(),
            floor: Floor::new(workers, processes),
            now: Duration::ZERO,
            workers,
            processes,
            handed_in: 0,
            running: BTreeSet::new(),
            paused: BTreeSet::new(),
            ended: BTreeMap::new(),
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::HandIn { tasks, function, priority } => {
                let job = Job { priority, ..Job::new(self.handed_in, function, tasks) };
                self.handed_in += tasks as u64;
                self.floor.add(self.policy.as_mut(), job, self.now);
            }
            Event::Pass(milliseconds) => self.now += milliseconds * MS,
            Event::End { which, paused } => {
                if let Some(id) = self.one(which, paused) {
                    return self.end(id);
                }
            }
            Event::Die { which, paused } => {
                if let Some(id) = self.one(which, paused) {
                    let job = self.floor.lost(id, self.now);
                    prop_assert!(job.is_some_and(|job| job.id == id && job.tasks == 1 && job.begun));
                    self.running.remove(&id);
                    self.paused.remove(&id);
                    self.floor.add(self.policy.as_mut(), Job::new(id, 0, 1), self.now);
                }
            }
            Event::Processes(processes) => {
                // Those that hold a task do not go away by themselves.
                self.processes = processes.max(self.running.len() + self.paused.len());
                self.floor.set_processes(self.processes);
            }
        }
        self.turn()
    }

    fn one(&self, which: usize, paused: bool) -> Option<u64> {
        let among = if paused { &self.paused } else { &self.running };
        among.iter().nth(which.checked_rem(among.len())?).copied()
    }

    fn end(&mut self, id: u64) -> Result<(), TestCaseError> {
        prop_assert!(self.floor.ended(self.policy.as_mut(), id, self.now).is_some());
        self.running.remove(&id);
        self.paused.remove(&id);
        *self.ended.entry(id).or_default() += 1;
        self.turn()
    }

    fn turn(&mut self) -> Result<(), TestCaseError> {
        for action in self.floor.turn(self.policy.as_mut(), self.now) {
            match action {
                Action::Pause(id) => prop_assert!(self.running.remove(&id) && self.paused.insert(id)),
                Action::Resume(id) => prop_assert!(self.paused.remove(&id) && self.running.insert(id)),
                Action::Start(job) => {
                    prop_assert!(!self.paused.contains(&job.id) && !self.ended.contains_key(&job.id));
                    prop_assert!(self.running.insert(job.id) && job.tasks == 1 && !job.begun);
                }
            }
        }
        let begun = self.running.len() + self.paused.len();
        prop_assert!(self.running.len() <= self.workers);
        prop_assert!(begun <= self.processes);
        let waiting = self.handed_in as usize - self.ended.len() - begun;
        let room = self.running.len() < self.workers;
        prop_assert!(!room || self.paused.is_empty());
        prop_assert!(!room || waiting == 0 || begun == self.processes);
        prop_assert!(self.floor.next_turn(self.policy.as_ref()).is_none_or(|next| next > self.now));
        Ok(())
    }
}
