//! Times, and how they are shown.

use std::time::{Duration, Instant};

/// Times of one thing, measured many times.
#[derive(Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// Adds one, in microseconds.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e6);
    }

    /// Runs `f` and adds the time that it took.
    pub fn time<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = f();
        self.add(start.elapsed());
        value
    }

    /// The time that so many percent of all stay under, in microseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[(sorted.len() - 1) * percent / 100]
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.percentile(50)
    }
}

/// Some that do the same work, in turns, round after round: a load on the machine hits all alike.
#[derive(Default)]
pub struct Race<'a> {
    contenders: Vec<Contender<'a>>,
}

struct Contender<'a> {
    name: &'a str,
    run: Box<dyn FnMut() -> f64 + 'a>,
    /// Whatever is the more the better, a figure for each round.
    rates: Vec<f64>,
}

impl<'a> Race<'a> {
    /// Adds one, whose run gives its rate.
    pub fn add(&mut self, name: &'a str, run: impl FnMut() -> f64 + 'a) {
        self.contenders.push(Contender { name, run: Box::new(run), rates: Vec::new() });
    }

    /// Lets all run, one after the other, so many times. A first round is not counted.
    pub fn run(&mut self, rounds: usize) {
        for round in 0..=rounds {
            for contender in &mut self.contenders {
                let rate = (contender.run)();
                if round > 0 {
                    contender.rates.push(rate);
                }
            }
        }
    }

    /// Those who run.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.contenders.iter().map(|contender| contender.name)
    }

    fn rates(&self, name: &str) -> &[f64] {
        &self.contenders.iter().find(|contender| contender.name == name).expect("a contender's name").rates
    }

    /// The median of one's rates.
    pub fn rate(&self, name: &str) -> f64 {
        median(self.rates(name).to_vec())
    }

    /// How many times faster one is than another: the median of the rounds' ratios.
    pub fn ratio(&self, name: &str, than: &str) -> f64 {
        median(self.rates(name).iter().zip(self.rates(than)).map(|(one, other)| one / other).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Rows of figures, and pictures below them.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 4]>,
    pictures: Vec<[String; 2]>,
}

impl Table {
    /// A figure, what it is compared with, and what was promised.
    pub fn row(&mut self, what: &str, figure: String, beside: String, target: &str) {
        eprintln!("{what}: {figure} ({beside}) {target}");
        self.rows.push([what.to_owned(), figure, beside, target.to_owned()]);
    }

    /// A picture, by its path as seen from the page.
    pub fn picture(&mut self, what: &str, path: &str) {
        self.pictures.push([what.to_owned(), path.to_owned()]);
    }

    /// Writes them as Markdown.
    pub fn print(&self) {
        println!("| what | figure | beside | target |\n|---|---|---|---|");
        for [what, figure, beside, target] in &self.rows {
            println!("| {what} | {figure} | {beside} | {target} |");
        }
        for [what, path] in &self.pictures {
            println!("\n![{what}]({path})");
        }
    }
}

/// What this machine is, as a list.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let memory = read("/proc/meminfo");
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    format!(
        "- {} CPUs: {}\n- {} GiB of memory\n- Linux {}",
        broody::cpu_count(),
        model.unwrap_or("unknown"),
        kib >> 20,
        read("/proc/sys/kernel/osrelease").trim()
    )
}
