//! What each scheduling policy makes of a mix of many short tasks and a few long ones.
//!
//! Beside each figure stands that of a simulation of the same pool, in which nothing costs anything and nobody disturbs: what
//! the policy itself makes of the mix.

use std::path::Path;
use std::time::Duration;

use broody::Pool;
use broody::policy::{Job, Scheduling, SimulatedTask, Simulation};
use plotters::prelude::*;

use crate::bare;
use crate::measure::Table;

const WORKERS: usize = 2;
/// What a pool of two has if nothing is said: as many as there are long ones.
const SPARES: usize = WORKERS + 8;
const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_millis(500);
/// One task in so many is a long one.
const BLOCK: usize = 20;
const LONG_ONES: usize = 10;

/// How often each is played: the middle one counts.
const ROUNDS: usize = 3;

/// Where the picture is put, beside the page that shows it.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policies.svg");

fn short(_: ()) -> Duration {
    burn(SHORT)
}

fn long(_: ()) -> Duration {
    burn(LONG)
}

/// The time, on a clock that all processes share.
fn now() -> Duration {
    bare::clock(libc::CLOCK_MONOTONIC)
}

/// Computes until this process has used so much CPU time more. A clock on the wall would run on while the task is paused. Gives the time of its end: nobody has to
/// listen meanwhile, which would take its time, too.
fn burn(time: Duration) -> Duration {
    let used = || bare::clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    let start = used();
    while used() - start < time {
        std::hint::black_box((0..10_000u64).map(std::hint::black_box).sum::<u64>());
    }
    now()
}

/// Which tasks are long: one in each block, at a place that is the same in each run.
fn mix() -> Vec<bool> {
    let mut state = 1u32;
    let block = |_| {
        // Numerical Recipes' generator; its high bits are the good ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let place = (state >> 16) as usize % BLOCK;
        (0..BLOCK).map(move |index| index == place)
    };
    (0..LONG_ONES).flat_map(block).collect()
}

/// From handing in to the end, in seconds.
#[derive(Default)]
struct Turnarounds {
    short: Vec<f64>,
    long: Vec<f64>,
}

impl Turnarounds {
    fn add(&mut self, is_long: bool, time: Duration) {
        let kind = if is_long { &mut self.long } else { &mut self.short };
        kind.push(time.as_secs_f64());
    }

    /// How many times longer a short task is under way than it would be alone.
    fn slowdown(&self) -> f64 {
        mean(&self.short) / SHORT.as_secs_f64()
    }

    fn mean_of_all(&self) -> f64 {
        mean(&[&self.short[..], &self.long].concat())
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A way to schedule, and what comes of it.
struct Contender {
    name: &'static str,
    real: Turnarounds,
    simulated: Turnarounds,
}

impl Contender {
    fn run(name: &'static str, scheduling: Scheduling, spares: usize) -> Self {
        let simulated = simulate(&scheduling, spares);
        let pool = Pool::builder().workers(WORKERS).scheduling(scheduling).spares(spares).build().unwrap();
        // Whoever goes by what tasks took has seen some of each.
        pool.map(short, [(); 2 * WORKERS]).unwrap();
        pool.map(long, [(); WORKERS]).unwrap();
        let mut rounds: Vec<_> = (0..ROUNDS).map(|_| play(&pool)).collect();
        rounds.sort_by(|one, other| one.slowdown().total_cmp(&other.slowdown()));
        let real = rounds.swap_remove(ROUNDS / 2);
        Self { name, real, simulated }
    }

    /// A figure, in relation to the same of another.
    fn relative(&self, to: &Self, figure: fn(&Turnarounds) -> f64) -> Relative {
        Relative {
            figure: figure(&self.real),
            ratio: figure(&self.real) / figure(&to.real),
            simulated: figure(&self.simulated) / figure(&to.simulated),
        }
    }
}

struct Relative {
    figure: f64,
    ratio: f64,
    simulated: f64,
}

/// Hands in the mix, and waits for it.
fn play(pool: &Pool) -> Turnarounds {
    let mix = mix();
    let hand_in = |is_long: &bool| match is_long {
        true => (now(), pool.apply_async(long, ()).unwrap()),
        false => (now(), pool.apply_async(short, ()).unwrap()),
    };
    let results: Vec<_> = mix.iter().map(hand_in).collect();
    let mut turnarounds = Turnarounds::default();
    for (is_long, (handed_in, result)) in mix.into_iter().zip(&results) {
        turnarounds.add(is_long, result.get().unwrap() - *handed_in);
    }
    turnarounds
}

fn simulate(scheduling: &Scheduling, spares: usize) -> Turnarounds {
    let mut policy = scheduling.build().unwrap();
    let mix = mix();
    let time = |is_long| if is_long { LONG } else { SHORT };
    for is_long in [false, true] {
        let mut job = Job::new(0, is_long.into(), 1);
        job.ran = time(is_long);
        policy.ended(&job);
    }
    let task = |is_long: &bool| {
        let mut task = SimulatedTask::new(Duration::ZERO, time(*is_long));
        task.function = (*is_long).into();
        task
    };
    let tasks: Vec<_> = mix.iter().map(task).collect();
    let times = Simulation::new(WORKERS).spares(spares).run(&mut *policy, &tasks);
    let mut turnarounds = Turnarounds::default();
    mix.iter().zip(times).for_each(|(is_long, times)| turnarounds.add(*is_long, times.turnaround()));
    turnarounds
}

/// The share of short tasks that have ended, over the time since they were handed in.
fn draw(contenders: &[Contender], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, (800, 450)).into_drawing_area();
    area.fill(&WHITE)?;
    let times = || contenders.iter().flat_map(|contender| &contender.real.short).copied();
    let (first, last) = (times().fold(f64::MAX, f64::min), times().fold(0.0, f64::max));
    let mut chart = ChartBuilder::on(&area)
        .caption("190 tasks of 5 ms among 10 of 500 ms, 2 workers", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d((first * 0.8..last * 1.25).log_scale(), 0.0..1.0)?;
    chart
        .configure_mesh()
        .x_desc("turnaround of a short task, seconds")
        .y_desc("share that ended by then")
        .disable_mesh()
        .label_style(("sans-serif", 14))
        .draw()?;
    for (index, contender) in contenders.iter().enumerate() {
        let mut sorted = contender.real.short.clone();
        sorted.sort_by(f64::total_cmp);
        let share = |count: usize| count as f64 / sorted.len() as f64;
        let points = sorted.iter().enumerate().map(|(index, time)| (*time, share(index + 1)));
        let style = Palette99::pick(index).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(contender.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .label_font(("sans-serif", 14))
        .draw()?;
    area.present()?;
    Ok(())
}

pub fn run(table: &mut Table) {
    let contenders = [
        Contender::run("fcfs", Scheduling::Fcfs, 0),
        Contender::run("sjf", Scheduling::Sjf, 0),
        Contender::run("round_robin", Scheduling::round_robin(), SPARES),
        Contender::run("mlfq", Scheduling::mlfq(), SPARES),
        // Long ones that cannot be paused hold up the short ones.
        Contender::run("mlfq, 2 spares", Scheduling::mlfq(), 2),
    ];
    let [fcfs, sjf, _, _, _] = &contenders;
    for contender in &contenders {
        let Relative { figure, ratio, simulated } = contender.relative(fcfs, Turnarounds::slowdown);
        table.row(
            &format!(
                "190 tasks of 5 ms among 10 of 500 ms, `{}`: mean slowdown of the short",
                contender.name
            ),
            format!("{figure:.0} x, **{ratio:.2} of fcfs**"),
            format!("simulated: {:.0} x, {simulated:.2} of fcfs", contender.simulated.slowdown()),
            if contender.name == "mlfq" { "at most 1/5 of fcfs" } else { "" },
        );
    }
    for contender in &contenders {
        let Relative { figure, ratio, simulated } =
            contender.relative(fcfs, |turnarounds| mean(&turnarounds.long));
        table.row(
            &format!("the same, `{}`: mean turnaround of the long", contender.name),
            format!("{figure:.2} s, **{ratio:.2} x fcfs**"),
            format!("simulated: {:.2} s, {simulated:.2} x fcfs", mean(&contender.simulated.long)),
            if contender.name == "mlfq" { "at most 1.3 x fcfs" } else { "" },
        );
    }
    let Relative { figure, ratio, simulated } = sjf.relative(fcfs, Turnarounds::mean_of_all);
    table.row(
        "the same, `sjf`: mean turnaround of all",
        format!("{figure:.2} s, **{ratio:.2} of fcfs**"),
        format!("simulated: {:.2} s, {simulated:.2} of fcfs", sjf.simulated.mean_of_all()),
        "at most 1/2 of fcfs",
    );
    draw(&contenders, Path::new(PICTURE)).unwrap();
    table.picture("How soon short tasks end under each policy", "policies.svg");
}
