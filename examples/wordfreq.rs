//! Counts how often each word occurs in the text files below a directory, on all CPUs.
//!
//! ```sh
//! cargo run --release --example wordfreq -- /usr/share/doc
//! ```
//!
//! With `--kill-worker` a worker is killed half-way, to show that the result is complete all the same.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use broody::{Pid, Pool};
use broody_examples::Census;
use broody_os::pidfd::PidFd;
use broody_os::{events, signals};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

/// About so many bytes of files make one task: enough that a task is long beside what it costs to hand it over.
const TASK_BYTES: u64 = 512 * 1024;

/// Counts words in every text file below a directory.
#[derive(Parser)]
struct Options {
    /// The directory.
    directory: PathBuf,
    /// How many processes count [default: one for each CPU].
    #[arg(long)]
    workers: Option<usize>,
    /// How many of the most frequent words to show.
    #[arg(long, default_value_t = 15)]
    top: usize,
    /// Kill a worker half-way.
    #[arg(long)]
    kill_worker: bool,
}

/// What a task found, and all of them together.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    words: HashMap<String, u64>,
    files: u64,
    bytes: u64,
    binary: u64,
    unreadable: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        for (word, count) in other.words {
            *self.words.entry(word).or_default() += count;
        }
        self.files += other.files;
        self.bytes += other.bytes;
        self.binary += other.binary;
        self.unreadable += other.unreadable;
    }

    fn add_file(&mut self, path: &Path) {
        let Ok(content) = read(path) else {
            self.unreadable += 1;
            return;
        };
        // As grep and git tell: text has no zero byte at its beginning.
        if content.iter().take(8192).any(|byte| *byte == 0) {
            self.binary += 1;
            return;
        }
        let text = String::from_utf8_lossy(&content);
        let mut lower = String::new();
        for word in text.split(|letter: char| !letter.is_alphabetic()).filter(|word| word.len() > 1) {
            lower.clear();
            lower.extend(word.chars().flat_map(char::to_lowercase));
            match self.words.get_mut(&lower) {
                Some(count) => *count += 1,
                None => drop(self.words.insert(lower.clone(), 1)),
            }
        }
        self.files += 1;
        self.bytes += content.len() as u64;
    }
}

/// A file's content, unpacked if it is a gz file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut content = Vec::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::MultiGzDecoder::new(file).read_to_end(&mut content)?;
    } else {
        file.read_to_end(&mut content)?;
    }
    Ok(content)
}

/// The function that workers run.
fn count_words(paths: Vec<PathBuf>) -> Counts {
    let mut counts = Counts::default();
    paths.iter().for_each(|path| counts.add_file(path));
    counts
}

/// The files below `directory`, in portions of about [`TASK_BYTES`].
fn tasks(directory: &Path) -> Vec<Vec<PathBuf>> {
    let mut tasks = Vec::new();
    let (mut task, mut bytes) = (Vec::new(), 0);
    for entry in walkdir::WalkDir::new(directory).sort_by_file_name().into_iter().flatten() {
        if !entry.file_type().is_file() {
            continue;
        }
        bytes += entry.metadata().map_or(0, |data| data.len());
        task.push(entry.into_path());
        if bytes >= TASK_BYTES {
            tasks.push(std::mem::take(&mut task));
            bytes = 0;
        }
    }
    tasks.extend(Some(task).filter(|task| !task.is_empty()));
    tasks
}

/// Kills one of the pool's workers and waits until it is dead. Its pid, if there was one to kill.
fn kill_a_worker(pool: &Pool) -> Option<Pid> {
    let pid = *pool.worker_pids().first()?;
    let worker = PidFd::open(pid).ok()?;
    worker.send_signal(signals::SIGKILL).ok()?;
    events::poll(&[worker.as_fd()], Some(Instant::now() + Duration::from_secs(10))).ok()?;
    Some(pid)
}

fn progress_bar(tasks: usize, workers: usize) -> ProgressBar {
    // It draws nothing where standard error is no terminal.
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {eta}");
    let bar = ProgressBar::new(tasks as u64).with_message(format!("counting in {workers} processes"));
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

/// The most frequent words, each with a bar.
fn chart(words: &HashMap<String, u64>, top: usize) {
    let mut words: Vec<_> = words.iter().collect();
    words.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
    words.truncate(top);
    let Some((_, most)) = words.first().copied() else { return };
    let width = words.iter().map(|(word, _)| word.chars().count()).max().unwrap_or(0);
    for (word, count) in words {
        let bar = "█".repeat((count * 50).div_ceil(*most) as usize);
        println!("{word:>width$} {count:>9} {bar}");
    }
}

fn main() -> broody::Result<()> {
    broody::init();
    let options = Options::parse();
    if !options.directory.is_dir() {
        let what = format!("{} is no directory that can be read", options.directory.display());
        return Err(broody::Error::Invalid { what });
    }
    let tasks = tasks(&options.directory);

    // Both ways of counting shall find the files in memory, and not one of them wait for the disk.
    tasks.iter().flatten().for_each(|path| drop(std::fs::read(path)));

    // The same function in this process alone, to compare with.
    let start = Instant::now();
    let alone = tasks.iter().cloned().map(count_words).fold(Counts::default(), |mut sum, counts| {
        sum.add(counts);
        sum
    });
    let time_alone = start.elapsed();

    let start = Instant::now();
    let workers = options.workers.unwrap_or_else(broody::cpu_count);
    let pool = Pool::builder().workers(workers).retries(3).name("wordfreq").build()?;
    let bar = progress_bar(tasks.len(), workers);
    let mut total = Counts::default();
    let mut killed = None;
    for (done, counts) in pool.imap_unordered(count_words, tasks.iter().cloned())?.enumerate() {
        total.add(counts?);
        bar.inc(1);
        if options.kill_worker && killed.is_none() && 2 * (done + 1) >= tasks.len() {
            killed = kill_a_worker(&pool);
        }
    }
    bar.finish_and_clear();
    let time = start.elapsed();
    pool.close()?;
    pool.join()?;

    chart(&total.words, options.top);
    println!(
        "{} files were skipped: {} binary, {} unreadable",
        total.binary + total.unreadable,
        total.binary,
        total.unreadable
    );
    if options.kill_worker {
        let whom = killed.map_or("no worker (there was none)".to_owned(), |pid| format!("worker {pid}"));
        let verdict = if total == alone { "complete" } else { "NOT COMPLETE" };
        println!(
            "{whom} was killed half-way, and its task run again; the result is {verdict} (compared with one process alone)"
        );
    }
    let megabytes = total.bytes as f64 / 1e6;
    let census = Census::take();
    println!(
        "{} files, {megabytes:.1} MB, {:.1} MB/s, speed-up {:.2} with {workers} workers, zombies {}, orphans {}",
        total.files,
        megabytes / time.as_secs_f64(),
        time_alone.as_secs_f64() / time.as_secs_f64(),
        census.zombies,
        census.orphans,
    );
    if total == alone { Ok(()) } else { Err(broody::Error::Invalid { what: "the counts differ".to_owned() }) }
}
