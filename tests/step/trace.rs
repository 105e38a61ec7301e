//! A child process that is run instruction by instruction.
//!
//! The child asks to be traced and stops itself at two [markers](marker), between which lies what it is watched at. The parent
//! lets it run single steps, or up to the n-th visit of an instruction by a breakpoint, and ends it wherever it stands. See
//! ptrace(2).
//!
//! A step costs some 20 µs, where breakpoints cost that per visit: a place that was found once by steps is reached by a breakpoint.

use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broody_os::fork::{self, Fork};
use broody_os::{Pid, proc, signals};
use broody_shm::sync::Deadline;
use broody_tests::PATIENCE;

/// The exit code of a child that panicked.
pub const PANICKED: u8 = 101;

/// A child of this thread, which traces it. Killed on drop.
pub struct Traced {
    pid: Pid,
    is_there: bool,
}

/// Where a process is to die, once that was found by steps.
pub struct Spot(Mutex<Option<(u64, usize)>>, AtomicUsize);

impl Spot {
    pub const fn new() -> Self {
        Self(Mutex::new(None), AtomicUsize::new(0))
    }
}

/// Where a traced process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Behind an instruction, or at a breakpoint.
    Trap,
    /// At a marker.
    Marker,
}

/// In the child: stops here, until the parent lets it go on.
pub fn marker() {
    // SAFETY: a signal to the calling thread alone.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGSTOP) };
}

/// In a child, for the calling thread: its parent traces it from now on.
pub fn be_traced() {
    assert_eq!(request(libc::PTRACE_TRACEME, 0, 0, 0), 0, "ptrace is not allowed");
}

/// Runs `act` in a fork, which ends with what that gives.
///
/// `act` may use what shared memory and this thread have. Other threads of the test exist: no lock that they may hold.
pub fn in_fork(act: impl FnOnce() -> u8) -> Pid {
    let parent = fork::pid();
    // SAFETY: as the caller says; malloc is put right by libc.
    match unsafe { fork::fork() }.expect("a fork") {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let _ = fork::die_with_parent_thread();
            if fork::parent_pid() != parent {
                fork::exit_now(PANICKED);
            }
            fork::exit_now(catch_unwind(AssertUnwindSafe(act)).unwrap_or(PANICKED));
        }
    }
}

fn request(request: libc::c_uint, pid: Pid, address: usize, data: usize) -> libc::c_long {
    // SAFETY: the requests that are used here take numbers, or the address of a struct that lives through the call.
    unsafe { libc::ptrace(request, pid, address as *mut c_void, data as *mut c_void) }
}

impl Traced {
    /// Starts a child, and gives it when it stands at its first marker.
    pub fn start(act: impl FnOnce()) -> Self {
        let pid = in_fork(|| {
            be_traced();
            act();
            0
        });
        let traced = Self { pid, is_there: true };
        assert_eq!(traced.wait(), Stop::Marker, "the child stops at its first marker");
        request(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_EXITKILL as usize);
        traced
    }

    /// The thread `id` of a child, which [has said](be_traced) that it is traced, when it stands at its first marker.
    pub fn thread(id: Pid) -> Self {
        let traced = Self { pid: id, is_there: true };
        assert_eq!(traced.wait(), Stop::Marker, "the thread stops at its first marker");
        traced
    }

    /// A process that runs, a descendant of this one, wherever it is.
    pub fn seize(pid: Pid) -> Self {
        assert_eq!(request(libc::PTRACE_SEIZE, pid, 0, 0), 0, "ptrace is not allowed");
        let traced = Self { pid, is_there: true };
        assert_eq!(request(libc::PTRACE_INTERRUPT, pid, 0, 0), 0);
        assert_eq!(traced.wait(), Stop::Trap, "it stops where it is");
        traced
    }

    /// Kills it, where it stands, and leaves its end to whoever waits for it.
    pub fn kill_and_leave(mut self) {
        self.is_there = false;
        assert!(fork::kill_child(self.pid, signals::SIGKILL).unwrap());
    }

    /// Traces it no more, and lets it run.
    pub fn let_loose(mut self) {
        self.is_there = false;
        assert_eq!(request(libc::PTRACE_DETACH, self.pid, 0, 0), 0);
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until it stops.
    pub fn wait(&self) -> Stop {
        self.stopped(0).expect("a wait without WNOHANG ends with a stop")
    }

    /// Whether it has stopped; with WNOHANG in `flags`, perhaps not yet.
    fn stopped(&self, flags: i32) -> Option<Stop> {
        let mut status = 0;
        // SAFETY: the pid is our own child's, and the status is ours.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, flags | libc::__WALL) };
        if waited == 0 {
            return None;
        }
        assert_eq!(waited, self.pid, "waitpid: {}", std::io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "the child has ended by itself: status {status:#x}");
        match libc::WSTOPSIG(status) {
            libc::SIGTRAP => Some(Stop::Trap),
            libc::SIGSTOP => Some(Stop::Marker),
            signal => panic!("the child got signal {signal} at {:#x}", self.place()),
        }
    }

    /// Waits for it, calling `asleep` when it is found asleep in the kernel.
    fn wait_or(&self, asleep: &mut dyn FnMut()) -> Stop {
        let end = Instant::now() + PATIENCE;
        let mut looks = 0;
        loop {
            if let Some(stop) = self.stopped(libc::WNOHANG) {
                return stop;
            }
            assert!(Instant::now() < end, "the child hangs");
            // On the same CPU, it runs now.
            std::thread::yield_now();
            looks += 1;
            if looks % 4 == 0 && proc::stat(self.pid).unwrap().is_some_and(|stat| stat.letter == 'S') {
                asleep();
            }
            if looks > 64 {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// Runs the instruction at `place`, where it stands: a string instruction as a whole. `asleep` is called while that is a system call
    /// that sleeps.
    pub fn step(&self, place: u64, asleep: Option<&mut dyn FnMut()>) -> Stop {
        if let Some(behind) = behind_string_instruction(place) {
            let stop = self.go_on_to(behind, &mut || {});
            return stop.expect("a breakpoint can be set where it runs");
        }
        self.step_alone();
        match asleep {
            Some(asleep) => self.wait_or(asleep),
            None => self.wait(),
        }
    }

    /// Runs one instruction, or one round of a string instruction, and changes nothing of the code, which other threads of the process may run.
    pub fn step_in_a_crowd(&self) -> Stop {
        self.step_alone();
        self.wait()
    }

    fn step_alone(&self) {
        assert_eq!(request(libc::PTRACE_SINGLESTEP, self.pid, 0, 0), 0);
    }

    /// Lets it run, and does not wait for it.
    pub fn let_go(&self) {
        assert_eq!(request(libc::PTRACE_CONT, self.pid, 0, 0), 0);
    }

    /// Runs up to the next marker or breakpoint.
    pub fn go_on(&self, asleep: &mut dyn FnMut()) -> Stop {
        self.let_go();
        self.wait_or(asleep)
    }

    /// Runs until `is_there`, which is a matter of one step.
    pub fn run_until(&self, spot: &Spot, is_there: impl Fn() -> bool) {
        let step = |place| assert_eq!(self.step(place, None), Stop::Trap, "it comes by the spot");
        if let Some((place, visits)) = *spot.0.lock().unwrap() {
            for _ in 0..visits {
                assert_eq!(self.go_to(place, &mut || {}), Some(Stop::Trap), "it comes by the spot again");
            }
        }
        let mut places = Vec::new();
        while !is_there() {
            step(self.place());
            places.push(self.place());
        }
        let runs = spot.1.fetch_add(1, Ordering::Relaxed);
        // In the first run tables may grow.
        if runs == 1
            && let Some(last) = places.last()
        {
            let visits = places.iter().filter(|place| *place == last).count();
            *spot.0.lock().unwrap() = Some((*last, visits));
        }
    }

    /// Runs up to its next `FUTEX_WAIT` or `FUTEX_WAKE`, or to a marker. See futex(2).
    pub fn step_to_futex(&self, operation: i32) -> Stop {
        loop {
            let registers = self.registers();
            let is_futex = registers.rax == libc::SYS_futex as u64;
            let command = registers.rsi as i32 & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
            if is_system_call(registers.rip) && is_futex && command == operation {
                return Stop::Trap;
            }
            if self.step(registers.rip, None) == Stop::Marker {
                return Stop::Marker;
            }
        }
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: plain numbers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        assert_eq!(request(libc::PTRACE_GETREGS, self.pid, 0, (&raw mut registers).addr()), 0);
        registers
    }

    /// The address of its next instruction.
    pub fn place(&self) -> u64 {
        self.registers().rip
    }

    /// Eight bytes of its memory.
    fn word(&self, address: u64) -> u64 {
        request(libc::PTRACE_PEEKTEXT, self.pid, address as usize, 0) as u64
    }

    fn set_word(&self, address: u64, word: u64) -> bool {
        request(libc::PTRACE_POKETEXT, self.pid, address as usize, word as usize) == 0
    }

    /// Goes on up to `place`, where it does not stand now, or to a marker. `None` when no breakpoint can be set there: then it has not moved.
    fn go_on_to(&self, place: u64, asleep: &mut dyn FnMut()) -> Option<Stop> {
        const BREAKPOINT: u64 = 0xcc;
        let original = self.word(place);
        if !self.set_word(place, (original & !0xff) | BREAKPOINT) {
            return None;
        }
        let stop = self.go_on(asleep);
        self.set_word(place, original);
        if stop == Stop::Trap {
            let mut registers = self.registers();
            assert_eq!(registers.rip, place + 1, "it stands behind the breakpoint");
            registers.rip = place;
            assert_eq!(request(libc::PTRACE_SETREGS, self.pid, 0, (&raw mut registers).addr()), 0);
        }
        Some(stop)
    }

    /// Runs until it has come to `place` once more, or to a marker. `None` when no breakpoint can be set there.
    pub fn go_to(&self, place: u64, asleep: &mut dyn FnMut()) -> Option<Stop> {
        // It may stand there.
        if self.step(self.place(), Some(asleep)) == Stop::Marker {
            return Some(Stop::Marker);
        }
        if self.place() == place { Some(Stop::Trap) } else { self.go_on_to(place, asleep) }
    }

    /// Runs until this thread has come to `place` so many times, or to a marker. The code stays as it is for its other threads: a debug register holds the
    /// breakpoint, or, on machines that have none to spare, each instruction is a step.
    pub fn go_to_in_a_crowd(&self, place: u64, visits: u32) -> Stop {
        let mut visits = visits;
        let is_set = self.set_debug_register(0, place);
        while visits > 0 {
            // It may stand there.
            let mut stop = self.step_in_a_crowd();
            if is_set && stop == Stop::Trap && self.place() != place && self.set_debug_register(7, 1) {
                self.let_go();
                stop = self.wait();
                assert!(self.set_debug_register(7, 0));
            }
            if stop == Stop::Marker {
                return stop;
            }
            visits -= u32::from(self.place() == place);
        }
        Stop::Trap
    }

    fn set_debug_register(&self, number: usize, value: u64) -> bool {
        let place = std::mem::offset_of!(libc::user, u_debugreg) + number * size_of::<u64>();
        request(libc::PTRACE_POKEUSER, self.pid, place, value as usize) == 0
    }

    /// Kills it, where it stands. It is a zombie then, as the supervisor finds it.
    pub fn kill(&self) {
        assert!(fork::kill_child(self.pid, signals::SIGKILL).unwrap());
        await_end(self.pid);
    }

    /// Reaps it, after [`kill`](Self::kill).
    pub fn reap(mut self) {
        self.is_there = false;
        reap(self.pid);
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.is_there {
            self.kill();
            reap(self.pid);
        }
    }
}

/// The first bytes of the instruction at `place`, which a traced process is to run: its code is this process's, of which it is a fork.
fn code(place: u64) -> [u8; 4] {
    // SAFETY: the traced process has just come there, so that there is code, and no instruction's first bytes are the last ones of what
    // is mapped.
    unsafe { std::ptr::with_exposed_provenance::<[u8; 4]>(place as usize).read_unaligned() }
}

/// Whether the instruction at `place` is a system call.
pub fn is_system_call(place: u64) -> bool {
    matches!(code(place), [0x0f, 0x05, ..])
}

/// If that is a string instruction, which would be a step for each byte: the address of the next instruction.
fn behind_string_instruction(place: u64) -> Option<u64> {
    let (operation, length) = match code(place) {
        [0xf2 | 0xf3, 0x40..=0x4f, operation, _] => (operation, 3),
        [0xf2 | 0xf3, operation, ..] => (operation, 2),
        _ => return None,
    };
    matches!(operation, 0xa4..=0xa7 | 0xaa..=0xaf).then_some(place + length)
}

/// Where the kernel has put the code that tells the time: it takes another way now and then.
pub fn clock_code() -> Range<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let place = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| line.split(' ').next());
    let number = |text| u64::from_str_radix(text, 16).ok();
    let range = place.and_then(|place| place.split_once('-'));
    range.and_then(|(start, end)| Some(number(start)?..number(end)?)).unwrap_or(0..0)
}

/// An address as `addr2line -e` takes it with the file of this program; as it is where it lies elsewhere.
pub fn in_program(place: u64) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let name = std::env::current_exe().unwrap_or_default();
    let mut lines = maps.lines().filter(|line| name.to_str().is_some_and(|name| line.ends_with(name)));
    let start = lines.next().and_then(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
    start.and_then(|start| place.checked_sub(start)).filter(|offset| *offset < 1 << 32).unwrap_or(place)
}

/// Starts a child that waits for something for a short time, and gives it before the system call that sleeps. Also gives when its time is over
/// for certain. `act` gets what begins that time.
pub fn about_to_sleep(act: impl Fn(&dyn Fn() -> Deadline)) -> (Traced, Instant) {
    // The machine may be too slow for the first of them.
    for limit in [1, 4, 16, 64].map(|quarters| Duration::from_millis(250 * quarters)) {
        let child = Traced::start(|| act(&|| Deadline::after(limit)));
        let start = Instant::now();
        if child.step_to_futex(libc::FUTEX_WAIT) == Stop::Trap {
            return (child, start + 2 * limit);
        }
    }
    panic!("a child's time is over before it sleeps");
}

/// Waits until the child `pid` has ended, and leaves it a zombie. See waitid(2).
pub fn await_end(pid: Pid) {
    // SAFETY: plain data, which the kernel writes; the pid is our own unreaped child's.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
        while libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, flags) != 0 {
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINTR));
        }
    }
}

/// Reaps the child `pid`, which has ended. How it did.
pub fn reap(pid: Pid) -> broody_os::wait::ExitStatus {
    match broody_os::wait::reap_pid(pid) {
        Ok(broody_os::wait::Reaped::Ended(status, _)) => status,
        other => panic!("{pid} cannot be reaped: {other:?}"),
    }
}
