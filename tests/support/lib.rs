//! What the tests of faults need: programs to be killed, and a look at what is left of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use broody_os::{Pid, fork, proc};
use broody_shm::arena::Arena;

/// Long enough that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, and fails if it never does.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(PATIENCE, what, condition);
}

/// Waits until `condition` holds, and fails if it does not within `limit`.
pub fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One process for good: a pid may be given away again, together with its start time it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub pid: Pid,
    start_time: u64,
}

impl Identity {
    /// Of a process that is there.
    pub fn of(pid: Pid) -> Option<Self> {
        Some(Self { pid, start_time: proc::stat(pid).unwrap()?.start_time })
    }

    /// Whether nothing is left of it that its program is answerable for: it is not there, or it is a zombie that has fallen to
    /// the machine's init.
    pub fn is_gone(self) -> bool {
        match proc::stat(self.pid).unwrap() {
            None => true,
            Some(stat) => stat.start_time != self.start_time || (stat.letter == 'Z' && stat.parent == 1),
        }
    }

    /// Its letter in /proc, if it is there.
    pub fn letter(self) -> Option<char> {
        proc::stat(self.pid)
            .unwrap()
            .filter(|stat| stat.start_time == self.start_time)
            .map(|stat| stat.letter)
    }
}

/// A program of this package, running, with its output and input in our hands.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// Starts `path` with `arguments`.
    pub fn start(path: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("its output is piped"));
        Self { child, input, output }
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.child.id() as Pid
    }

    /// Its next line.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output can be read");
        line.trim_end().to_owned()
    }

    /// Its next line, which is a list of pids.
    pub fn pids(&mut self) -> Vec<Pid> {
        let line = self.line();
        line.split_whitespace()
            .map(|pid| pid.parse().unwrap_or_else(|_| panic!("no pids: {line:?}")))
            .collect()
    }

    /// Lets it go on.
    pub fn proceed(&mut self) {
        let input = self.input.as_mut().expect("its input is piped");
        writeln!(input, "go on").and_then(|()| input.flush()).expect("it reads its input");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        assert!(broody_os::fork::kill_child(self.pid(), signal).unwrap());
    }

    /// Waits for its end, within [`PATIENCE`].
    pub fn end(mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                panic!("the program does not end");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs a scenario of the program at `path`, which checks itself, and fails with it.
pub fn check(path: &str, arguments: &[&str]) {
    let status = Program::start(path, arguments).end();
    assert!(status.success(), "{arguments:?} ended with {status}: see above");
}

/// In a program: waits until the test lets it go on.
pub fn wait_for_test() {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    assert!(read.is_ok_and(|bytes| bytes > 0), "the test is gone");
}

/// In a program: tells the test pids, on one line.
pub fn tell_pids(pids: &[Pid]) {
    let line: Vec<String> = pids.iter().map(Pid::to_string).collect();
    println!("{}", line.join(" "));
}

/// A start method by its name.
pub fn method(name: &str) -> broody::StartMethod {
    match name {
        "forkserver" => broody::StartMethod::Forkserver,
        "spawn" => broody::StartMethod::Spawn,
        "fork" => broody::StartMethod::Fork,
        other => panic!("no start method: {other}"),
    }
}

/// A generator of numbers that look random, by George Marsaglia (xorshift64, Journal of Statistical Software 8(14), 2003).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`, of which similar ones give others.
    pub fn new(seed: u64) -> Self {
        // Not 0, from which there is no way; the multiplier is that of Knuth's MMIX.
        let mut random = Self(seed.wrapping_mul(6_364_136_223_846_793_005) | 1);
        (0..10).for_each(|_| _ = random.below(2));
        random
    }

    /// The next one, from 0 to `limit`, which is not reached.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Another one each time.
pub fn seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64)
}

/// The shared memory of this process's program, to be looked at from outside.
pub fn observer() -> &'static Arena {
    let is_arena = |fd: &i32| {
        std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|name| name.to_string_lossy().contains("memfd:broody-arena"))
    };
    let mut descriptors = proc::descriptors(fork::pid()).expect("/proc can be read").into_iter();
    let descriptor = descriptors.find(is_arena).expect("the program has shared memory");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{descriptor}"));
    Arena::open(file.expect("the file can be opened once more").into()).expect("it is an arena")
}

/// The names of all start methods.
pub const METHODS: [&str; 3] = ["forkserver", "spawn", "fork"];

/// The supervisor of this process: its child of that name.
pub fn supervisor() -> Option<Pid> {
    let is_one = |pid: &Pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim_end() == "broody-super")
    };
    proc::children(broody_os::fork::pid()).into_iter().find(is_one)
}
