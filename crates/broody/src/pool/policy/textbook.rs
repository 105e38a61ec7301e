//! Schedules that can be worked out on paper, as textbooks have them. Times are in milliseconds.

use std::time::Duration;

use super::{
    Action, Fcfs, Mlfq, Policy, RoundRobin, Scheduling, SimulatedTask, Simulation, Sjf, Times, mean,
};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Tasks that arrive and run for so long.
fn tasks(arrive_and_run: &[(u64, u64)]) -> Vec<SimulatedTask> {
    arrive_and_run.iter().map(|(arrives, runs)| SimulatedTask::new(ms(*arrives), ms(*runs))).collect()
}

/// The times, and what was done when: `"10 pause 0"`.
fn run(
    policy: &mut dyn Policy,
    simulation: Simulation,
    tasks: &[SimulatedTask],
) -> (Vec<Times>, Vec<String>) {
    let mut seen = Vec::new();
    let times = simulation.run_seen(policy, tasks, &mut |now, action| {
        let now = now.as_millis();
        seen.push(match action {
            Action::Pause(id) => format!("{now} pause {id}"),
            Action::Start(job) => format!("{now} start {}", job.id),
            Action::Resume(id) => format!("{now} resume {id}"),
        });
    });
    (times, seen)
}

fn ended(times: &[Times]) -> Vec<u128> {
    times.iter().map(|times| times.ended.as_millis()).collect()
}

fn waited(times: &[Times]) -> Vec<u128> {
    times.iter().map(|times| times.waiting().as_millis()).collect()
}

mod first_come_first_served {
    use super::*;

    #[test]
    fn short_ones_wait_behind_a_long_one() {
        // 0-24, 24-27, 27-30.
        let (times, _) = run(&mut Fcfs::default(), Simulation::new(1), &tasks(&[(0, 24), (0, 3), (0, 3)]));
        assert_eq!(waited(&times), [0, 24, 27]);
        assert_eq!(mean(&times, Times::waiting), ms(17));
        assert_eq!(mean(&times, Times::turnaround), ms(27));
        // The long one last: 0-3, 3-6, 6-30.
        let (times, _) = run(&mut Fcfs::default(), Simulation::new(1), &tasks(&[(0, 3), (0, 3), (0, 24)]));
        assert_eq!(mean(&times, Times::waiting), ms(3));
    }

    #[test]
    fn two_workers_share_one_line() {
        // One worker: 5 (0-5), 2 (5-7). The other one: 3 (0-3), 4 (3-7).
        let (times, _) =
            run(&mut Fcfs::default(), Simulation::new(2), &tasks(&[(0, 5), (0, 3), (0, 4), (0, 2)]));
        assert_eq!(ended(&times), [5, 3, 7, 7]);
        assert_eq!(mean(&times, Times::waiting), ms(2));
    }

    #[test]
    fn times_come_in_the_order_of_the_tasks() {
        let (times, _) = run(&mut Fcfs::default(), Simulation::new(1), &tasks(&[(9, 1), (0, 2), (4, 3)]));
        assert_eq!(ended(&times), [10, 2, 7]);
        assert!(times.iter().all(|times| times.response().is_zero()));
    }

    #[test]
    fn without_workers_nothing_ever_begins() {
        let (times, _) = run(&mut Fcfs::default(), Simulation::new(0), &tasks(&[(0, 1)]));
        assert_eq!((times[0].started, times[0].ended), (Duration::MAX, Duration::MAX));
    }
}

mod shortest_job_first {
    use super::*;

    fn by_cost(arrive_and_run: &[(u64, u64)]) -> Vec<SimulatedTask> {
        let honest = |task: SimulatedTask| SimulatedTask { cost: Some(task.runs.as_secs_f64()), ..task };
        tasks(arrive_and_run).into_iter().map(honest).collect()
    }

    #[test]
    fn the_shortest_goes_first() {
        // 3 (0-3), 6 (3-9), 7 (9-16), 8 (16-24).
        let tasks = by_cost(&[(0, 6), (0, 8), (0, 7), (0, 3)]);
        let (times, _) = run(&mut Sjf::default(), Simulation::new(1), &tasks);
        assert_eq!(waited(&times), [3, 16, 9, 0]);
        assert_eq!(mean(&times, Times::waiting), ms(7));
        assert_eq!(mean(&times, Times::turnaround), ms(13));
    }

    #[test]
    fn what_runs_is_not_stopped_for_a_shorter_one() {
        // 7 (0-7), since it was alone; 1 (7-8); the 4 that came first (8-12); the other one (12-16).
        let tasks = by_cost(&[(0, 7), (2, 4), (4, 1), (5, 4)]);
        let (times, _) = run(&mut Sjf::default(), Simulation::new(1), &tasks);
        assert_eq!(waited(&times), [0, 6, 3, 7]);
        assert_eq!(mean(&times, Times::waiting), ms(4));
    }

    #[test]
    fn functions_are_learned() {
        // Both are unknown: the first of function 1 (0-10), then the first of function 2 (10-12), which is still unknown.
        // Now 10 and 2 are known: the other one of function 2 (12-14), the others of function 1 (14-24, 24-34).
        let of = |function, runs| SimulatedTask { function, ..SimulatedTask::new(ms(0), ms(runs)) };
        let tasks = [of(1, 10), of(1, 10), of(1, 10), of(2, 2), of(2, 2)];
        let (times, _) = run(&mut Sjf::default(), Simulation::new(1), &tasks);
        assert_eq!(ended(&times), [10, 24, 34, 12, 14]);
    }

    #[test]
    fn two_workers_take_the_two_shortest() {
        // One worker: 2 (0-2), 4 (2-6). The other one: 3 (0-3), 9 (3-12).
        let (times, _) =
            run(&mut Sjf::default(), Simulation::new(2), &by_cost(&[(0, 9), (0, 4), (0, 3), (0, 2)]));
        assert_eq!(ended(&times), [12, 6, 3, 2]);
    }
}

mod round_robin {
    use super::*;

    fn quantum(milliseconds: u64) -> RoundRobin {
        RoundRobin::new(ms(milliseconds)).unwrap()
    }

    #[test]
    fn short_ones_do_not_wait_for_the_long_one() {
        // 0-4 the long one, 4-7, 7-10, and 10-30 the long one alone.
        let (times, seen) = run(&mut quantum(4), Simulation::new(1), &tasks(&[(0, 24), (0, 3), (0, 3)]));
        assert_eq!(waited(&times), [6, 4, 7]);
        assert_eq!(mean(&times, |times| times.waiting() * 3), ms(17));
        assert_eq!(seen, ["0 start 0", "4 pause 0", "4 start 1", "7 start 2", "10 resume 0"]);
    }

    #[test]
    fn newcomers_stand_in_line_before_whoever_was_just_stopped() {
        // A 0-2 | line: B (arrived at 1), A          B 2-4 | line: A, C (at 3), B
        // A 4-6 | line: C, B, A                      C 6-8 | line: B, A, C
        // B 8-9, its end. A 9-10, its end. C 10-12, its end.
        let (times, _) = run(&mut quantum(2), Simulation::new(1), &tasks(&[(0, 5), (1, 3), (3, 4)]));
        assert_eq!(ended(&times), [10, 9, 12]);
        assert_eq!(waited(&times), [5, 5, 5]);
        assert_eq!(mean(&times, Times::turnaround), ms(9));
        let response: Vec<_> = times.iter().map(|times| times.response().as_millis()).collect();
        assert_eq!(response, [0, 1, 3]);
        // At the same moment: A 0-2, B (arrived at 2) 2-4, A 4-6.
        let (times, _) = run(&mut quantum(2), Simulation::new(1), &tasks(&[(0, 4), (2, 2)]));
        assert_eq!(ended(&times), [6, 4]);
    }

    #[test]
    fn two_workers_take_two_from_the_line() {
        // 0-2: A and B. At 2 the line is C, A, B: C begins, A stays, B pauses. At 4 A has ended, and the line is B, C: B goes on, C stays.
        let (times, seen) = run(&mut quantum(2), Simulation::new(2), &tasks(&[(0, 4), (0, 4), (0, 4)]));
        assert_eq!(ended(&times), [4, 6, 6]);
        assert_eq!(seen, ["0 start 0", "0 start 1", "2 pause 1", "2 start 2", "4 resume 1"]);
    }

    #[test]
    fn with_one_spare_process_two_take_turns() {
        // 0-2 A, 2-4 B. At 4 it is C's turn, which has no process: A 4-6, B 6-8 and its end. The line is C, A: C 8-10 and its end, A 10-12.
        let simulation = Simulation::new(1).spares(1);
        let (times, _) = run(&mut quantum(2), simulation, &tasks(&[(0, 6), (0, 4), (0, 2)]));
        assert_eq!(ended(&times), [12, 8, 10]);
        // With none, first come first served.
        let (times, _) = run(&mut quantum(2), simulation.spares(0), &tasks(&[(0, 6), (0, 4), (0, 2)]));
        assert_eq!(ended(&times), [6, 10, 12]);
    }
}

/// Three levels: 10, 20, and the bottom.
mod multi_level_feedback {
    use super::*;

    fn levels(levels: usize, boost: u64) -> Mlfq {
        Mlfq::new(levels, ms(10), ms(boost)).unwrap()
    }

    #[test]
    fn long_ones_sink() {
        // A 0-10 (top), B 10-20 (top), A 20-40 (middle), B 40-45 (middle) and its end; A alone at the bottom, 45-115.
        let (times, seen) = run(&mut levels(3, 10_000), Simulation::new(1), &tasks(&[(0, 100), (0, 15)]));
        assert_eq!(ended(&times), [115, 45]);
        assert_eq!(waited(&times), [15, 30]);
        assert_eq!(
            seen,
            [
                "0 start 0",
                "10 pause 0",
                "10 start 1",
                "20 pause 1",
                "20 resume 0",
                "40 pause 0",
                "40 resume 1",
                "45 resume 0"
            ]
        );
    }

    #[test]
    fn at_the_bottom_each_runs_to_its_end() {
        // 0-20 top, 20-60 middle. Both have had 30 of their 80: A 60-110, B 110-160.
        let (times, _) = run(&mut levels(3, 10_000), Simulation::new(1), &tasks(&[(0, 80), (0, 80)]));
        assert_eq!(ended(&times), [110, 160]);
    }

    #[test]
    fn a_boost_gives_a_turn_to_those_that_wait_at_the_bottom() {
        // Two levels, a boost each 100. A 0-10, B 10-20; A at the bottom from 20 on. Boost: A counts from 100 on, and is at the bottom again at
        // 110; B, which was lifted, 110-120, and is behind it. A 120-210, B 210-220 in the same way. A has had 190 of its 250: 220-280.
        // B has had 30 of its 150: 280-400.
        let (times, seen) = run(&mut levels(2, 100), Simulation::new(1), &tasks(&[(0, 250), (0, 150)]));
        assert_eq!(ended(&times), [280, 400]);
        let resumed: Vec<_> = seen.iter().filter(|seen| seen.contains("resume")).collect();
        assert_eq!(
            resumed,
            ["20 resume 0", "110 resume 1", "120 resume 0", "210 resume 1", "220 resume 0", "280 resume 1"]
        );
    }

    #[test]
    fn a_newcomer_displaces_at_once() {
        // A alone: 0-10 top, 10-30 middle, from 30 on at the bottom. B 35-40. A 40-65.
        let (times, seen) = run(&mut levels(3, 10_000), Simulation::new(1), &tasks(&[(0, 60), (35, 5)]));
        assert_eq!(ended(&times), [65, 40]);
        assert_eq!(times[1].response(), ms(0));
        assert_eq!(seen, ["0 start 0", "35 pause 0", "35 start 1", "40 resume 0"]);
    }

    #[test]
    fn a_level_is_used_up_over_several_visits() {
        // A: 0-10 top, 10-15 middle. B 15-20 and its end. A 20-32: 17 of its 20 in the middle are used.
        // C 32-42 at the top; in the middle it is behind A. A 42-45: the last 3. C 45-60 and its end. A at the bottom, 60-80.
        let (times, seen) =
            run(&mut levels(3, 10_000), Simulation::new(1), &tasks(&[(0, 50), (15, 5), (32, 25)]));
        assert_eq!(ended(&times), [80, 20, 60]);
        assert_eq!(
            seen[4..],
            [
                "32 pause 0",
                "32 start 2",
                "42 pause 2",
                "42 resume 0",
                "45 pause 0",
                "45 resume 2",
                "60 resume 0"
            ]
        );
    }

    #[test]
    fn every_newcomer_displaces_what_is_at_the_bottom() {
        // Two levels: A is at the bottom from 10 on. A 0-29, B 29-30, A 30-33, C 33-34, A 34-41.
        let (times, _) =
            run(&mut levels(2, 10_000), Simulation::new(1), &tasks(&[(0, 39), (29, 1), (33, 1)]));
        assert_eq!(ended(&times), [41, 30, 34]);
    }

    /// A task of 45, and from 10 to 90 one of 10 every 10, so that there is always one at the top.
    fn long_one_and_stream() -> Vec<SimulatedTask> {
        let stream = (1..10).map(|at| (at * 10, 10));
        tasks(&[(0, 45)].into_iter().chain(stream).collect::<Vec<_>>())
    }

    #[test]
    fn a_boost_lets_the_long_one_run() {
        // Two levels, a boost at 50 and at 100.
        // A 0-10 and sinks. Four of the stream 10-50. Boost: A is at the top, before the one that comes at 50. A 50-60 and sinks; the
        // rest of the stream 60-100, up to the one that came at 80. Boost: A is behind the last one. That one 100-110, A 110-135.
        let (times, seen) = run(&mut levels(2, 50), Simulation::new(1), &long_one_and_stream());
        assert_eq!(times[0].ended, ms(135));
        let resumed: Vec<_> = seen.iter().filter(|seen| seen.contains("resume 0")).collect();
        assert_eq!(resumed, ["50 resume 0", "110 resume 0"]);
    }

    #[test]
    fn without_a_boost_it_waits_for_the_streams_end() {
        let (_, seen) = run(&mut levels(2, 10_000), Simulation::new(1), &long_one_and_stream());
        let resumed: Vec<_> = seen.iter().filter(|seen| seen.contains("resume 0")).collect();
        assert_eq!(resumed, ["100 resume 0"]);
    }

    #[test]
    fn with_two_workers_the_lower_one_makes_room() {
        // A and B alone, 0-32: both are at the bottom since 30, and B is the younger one. C 32-36 in its place. D comes at 34 and
        // displaces A: 34-40. Whoever made room last is the first in line: A goes on at 36 and runs for 18 more, B at 40 for 18 more.
        let (times, seen) =
            run(&mut levels(3, 10_000), Simulation::new(2), &tasks(&[(0, 52), (0, 50), (32, 4), (34, 6)]));
        assert_eq!(
            seen[2..],
            ["32 pause 1", "32 start 2", "34 pause 0", "34 start 3", "36 resume 0", "40 resume 1"]
        );
        assert_eq!(ended(&times), [54, 58, 36, 40]);
    }
}

mod priorities {
    use super::*;

    fn with_priorities(tasks_: &[(u64, u64, i32)]) -> Vec<SimulatedTask> {
        let task = |(arrives, runs, priority): &(u64, u64, i32)| SimulatedTask {
            priority: *priority,
            ..SimulatedTask::new(ms(*arrives), ms(*runs))
        };
        tasks_.iter().map(task).collect()
    }

    #[test]
    fn under_fcfs_a_higher_one_is_only_next() {
        // 0-10 what began; 10-15 the higher one; 15-20 the other.
        let mut policy = Scheduling::Fcfs.build().unwrap();
        let tasks = with_priorities(&[(0, 10, 0), (1, 5, 0), (2, 5, 1)]);
        let (times, _) = run(policy.as_mut(), Simulation::new(1), &tasks);
        assert_eq!(ended(&times), [10, 20, 15]);
    }

    #[test]
    fn under_round_robin_it_displaces() {
        // A 0-2; the higher one 2-7; A has 2 of its 4 left: 7-9; B 9-13, A 13-17, B 17-18, A 18-20.
        let mut policy = Scheduling::RoundRobin { quantum: ms(4) }.build().unwrap();
        let tasks = with_priorities(&[(0, 10, 0), (1, 5, 0), (2, 5, 1)]);
        let (times, seen) = run(policy.as_mut(), Simulation::new(1), &tasks);
        assert_eq!(ended(&times), [20, 18, 7]);
        assert_eq!(seen[1..4], ["2 pause 0", "2 start 2", "7 resume 0"]);
    }

    #[test]
    fn a_lower_one_takes_no_turns_with_a_higher_one() {
        // The higher one 0-20, though its quantum is over at 4 and another one waits.
        let mut policy = Scheduling::RoundRobin { quantum: ms(4) }.build().unwrap();
        let (times, seen) =
            run(policy.as_mut(), Simulation::new(1), &with_priorities(&[(0, 20, 3), (1, 5, -3)]));
        assert_eq!(ended(&times), [20, 25]);
        assert_eq!(seen, ["0 start 0", "20 start 1"]);
    }
}
