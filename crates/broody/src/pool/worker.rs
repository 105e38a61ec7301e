//! A worker's process: takes frames from its inbox, claims their tasks one by one, runs them, publishes each answer.
//!
//! The answer is in the outbox, by one store, before the next task is claimed. A worker that is killed has therefore at most one
//! task that it claimed and did not answer: the one that it ran. Everything else is either answered or not begun, and the host can
//! tell which.
//!
//! The host is woken when there is nothing more to do, when [`RING`] is over since it was last woken, and when the outbox is
//! full: not for each answer, since waking costs more than a small task. A host that waits for the first of several answers looks
//! by itself now and then.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use broody_os::events::EventFd;
use broody_os::signals::{self, Disposition};
use broody_os::{clock, fork, limits, proc};
use broody_shm::arena::Transit;
use broody_shm::duplex::{Begun, Duplex};
use broody_shm::pace::Pace;
use broody_shm::ring::Record;
use broody_shm::{Corrupt, duplex, sleep};

use super::apart::{self, Packed, Ticket};
use super::plan::Plan;
use super::wire::{self, APART, How, LONGEST, Order, Report, Say, Span};
use crate::context::Context;
use crate::function::{FunctionId, Outcome};
use crate::output::Output;
use crate::process::take_own_descriptors;
use crate::{codec, handle};

/// Which of the realtime signals: not the first, which others like to take.
const STOP: i32 = 5;

/// After so long the host is woken for answers that it was not woken for yet, at the end of a frame.
const RING: Duration = Duration::from_micros(100);

/// The descriptors that a worker starts with.
pub(super) const DESCRIPTORS: usize = 2;

/// The signal that a task gets after its soft limit.
pub(super) fn stop_signal() -> i32 {
    signals::realtime(STOP)
}

/// Whether the task that this process runs for a pool was asked to stop: its [soft limit](crate::TaskOptions::soft_timeout) is over. For tasks
/// that can end early, with whatever they have so far. Outside of a pool's task it is `false`.
pub fn should_stop() -> bool {
    let link = Context::existing().and_then(|context| context.worker.link.get());
    link.is_some_and(Duplex::should_stop)
}

/// The function of a worker's process. An error reaches the pool as the reason for which it did not get ready.
pub(super) fn work(plan: Plan) -> Result<(), String> {
    let descriptors = take_own_descriptors().map_err(|error| error.to_string())?;
    work_with(descriptors, &plan)
}

/// The same with its descriptors: the link, and the pool's doorbell.
pub(super) fn work_with(descriptors: [OwnedFd; DESCRIPTORS], plan: &Plan) -> Result<(), String> {
    let [link, doorbell] = descriptors;
    let link_ends = duplex::Worker::open(&link).map_err(|error| error.to_string())?;
    drop(link);
    // Ctrl-C is the host's business, which ends its workers.
    signals::set_disposition(signals::SIGINT, Disposition::Ignore);
    signals::interrupt_on(stop_signal());
    let _ = Context::current().worker.link.set(link_ends.duplex.clone());
    plan.set_up()?;
    handle::allow_in_results();
    let mut desk = Desk {
        outbox: link_ends.outbox,
        duplex: link_ends.duplex,
        doorbell: doorbell.into(),
        rung_at: Instant::now(),
        has_said: false,
        host: (plan.host, plan.mark),
        buffer: Vec::new(),
    };
    let mut inbox = link_ends.inbox;
    let pace = Pace::default();
    desk.duplex.set_ready();
    desk.ring();
    loop {
        match inbox.take_next().map_err(|error| error.to_string())? {
            Some(record) => {
                if desk.follow(record).map_err(|error| error.to_string())? == Next::Quit {
                    return plan.tear_down();
                }
                inbox.release();
            }
            None => {
                desk.ring();
                let bell = inbox.control().consumer();
                bell.attend();
                if inbox.is_empty() {
                    bell.sleep(sleep::BOUND, plan.spins.then_some(&pace));
                }
                bell.cancel();
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    Order,
    Quit,
}

/// What a worker works with, except its inbox.
struct Desk {
    outbox: broody_shm::ring::Producer,
    duplex: duplex::Duplex,
    doorbell: EventFd,
    rung_at: Instant,
    /// It has said which task it has begun.
    has_said: bool,
    /// Who gets the objects in results, and their mark.
    host: (u32, u64),
    /// For the encoded result of the task at hand.
    buffer: Vec<u8>,
}

impl Desk {
    fn follow(&mut self, record: Record<'_>) -> Result<Next, Corrupt> {
        let (order, rest) = Order::parse(record)?;
        // SAFETY: the host is this program, of which this process is a part; what it has published it does not touch any more.
        let rest = unsafe { rest.as_slice() };
        match order {
            Order::Frame { frame, function, say } => self.frame(frame, function, say, rest)?,
            Order::Quit => return Ok(Next::Quit),
        }
        Ok(Next::Order)
    }

    /// Runs what is left for us of a frame's tasks.
    fn frame(
        &mut self,
        frame: u32,
        function: FunctionId,
        say: Say,
        mut arguments: &[u8],
    ) -> Result<(), Corrupt> {
        let began = Instant::now();
        let mut tasks: u16 = 0;
        while let Some(index) = self.duplex.lease(frame).claim(frame) {
            let (length, rest) = arguments.split_first_chunk::<4>().ok_or(Corrupt)?;
            let length = u32::from_le_bytes(*length);
            if length == APART {
                let (ticket, rest) = rest.split_first_chunk().ok_or(Corrupt)?;
                arguments = rest;
                self.begin(frame, index, say);
                self.run_apart(frame, index, function, Ticket::from_bytes(ticket), say)?;
            } else {
                let (argument, rest) = rest.split_at_checked(length as usize).ok_or(Corrupt)?;
                arguments = rest;
                self.begin(frame, index, say);
                let (outcome, output) = self.run_measured(function, argument, say)?;
                self.answer(frame, index, outcome, output)?;
            }
            tasks += 1;
        }
        let now = Instant::now();
        if tasks > 0 {
            let nanoseconds = (now - began).as_nanos() as u64;
            self.publish(Report::Pace { function, tasks, nanoseconds }, &[])?;
        }
        if now - self.rung_at >= RING {
            self.ring();
            self.rung_at = now;
        }
        Ok(())
    }

    /// Says that a task begins, if it is wanted.
    fn begin(&mut self, frame: u32, index: u16, say: Say) {
        if say == Say::Nothing {
            if std::mem::take(&mut self.has_said) {
                self.duplex.begin_silently();
            }
            return;
        }
        self.has_said = true;
        let resident = match say {
            Say::WhenAndHowLarge | Say::Everything => proc::resident(fork::pid()).unwrap_or(0),
            _ => 0,
        };
        self.duplex.begin(Begun { frame, index, since: clock::monotonic(), resident });
    }

    /// Runs a task whose argument is long.
    fn run_apart(
        &mut self,
        frame: u32,
        index: u16,
        function: FunctionId,
        ticket: Ticket,
        say: Say,
    ) -> Result<(), Corrupt> {
        let (outcome, output) = match ticket.open() {
            Ok(argument) => self.run_measured(function, &argument, say)?,
            Err(reason) => (Outcome::BadArgument(reason), Output::default()),
        };
        self.answer(frame, index, outcome, output)
    }

    /// As [`run`](Self::run), and tells what it took, if that is wanted.
    fn run_measured(
        &mut self,
        function: FunctionId,
        argument: &[u8],
        say: Say,
    ) -> Result<(Outcome, Output), Corrupt> {
        if say != Say::Everything {
            return Ok(self.run(function, argument));
        }
        let (began, cpu) = (clock::monotonic(), clock::process_cpu());
        let ran = self.run(function, argument);
        let ended = clock::monotonic();
        let nanoseconds = |time: Duration| time.as_nanos() as u64;
        let span = Span {
            ended: nanoseconds(ended),
            took: nanoseconds(ended.saturating_sub(began)),
            cpu: nanoseconds(clock::process_cpu().saturating_sub(cpu)),
            peak: limits::peak_memory(),
        };
        self.publish(Report::Span(span), &[])?;
        Ok(ran)
    }

    fn run(&mut self, function: FunctionId, argument: &[u8]) -> (Outcome, Output) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut output = Output::at_most(LONGEST, buffer);
        // SAFETY: the id comes from the host, which is a process of this build: that was checked when this process was made.
        let trampoline = unsafe { function.trampoline() };
        let outcome = trampoline(argument, &mut output);
        (outcome, output)
    }

    fn answer(&mut self, frame: u32, index: u16, outcome: Outcome, output: Output) -> Result<(), Corrupt> {
        let answer = |how| Report::Answer { frame, index, how };
        let objects = handle::take_result_objects();
        if outcome != Outcome::Returned {
            self.buffer = output.undo();
            return self.failed(answer(How::Failed), outcome);
        }
        let (mut buffer, encoded) = output.finish();
        match apart::pack(&buffer, encoded, objects) {
            Ok(Packed::Bytes) => self.publish(answer(How::Returned), &buffer)?,
            Ok(Packed::WithObjects(objects)) => {
                let mut bytes = self.give(objects);
                bytes.extend_from_slice(&buffer);
                self.publish(answer(How::WithObjects), &bytes)?;
            }
            Ok(Packed::Apart(objects, length)) => {
                let mut bytes = self.give(objects);
                bytes.extend(length.to_le_bytes());
                self.publish(answer(How::Apart), &bytes)?;
            }
            Err(reason) => self.failed(answer(How::Failed), Outcome::BadResult(reason))?,
        }
        // It is long where there was no shared memory for it.
        buffer.shrink_to(LONGEST);
        self.buffer = buffer;
        Ok(())
    }

    /// Makes objects the host's, before the answer is there: whatever becomes of this process then, they are not lost. What tells of them.
    fn give(&self, objects: Transit) -> Vec<u8> {
        let (host, mark) = self.host;
        wire::put_holds(&objects.give_to(host, mark))
    }

    fn failed(&mut self, report: Report, outcome: Outcome) -> Result<(), Corrupt> {
        let bytes = codec::encode(&outcome.shortened(LONGEST / 2)).unwrap_or_default();
        self.publish(report, &bytes)
    }

    /// Puts a record into the outbox, and waits for room if there is none.
    fn publish(&mut self, report: Report, bytes: &[u8]) -> Result<(), Corrupt> {
        while !self.outbox.push(&[&report.header(), bytes])? {
            self.ring();
            self.outbox.control().producer().attend();
            let has_room = self.outbox.has_room(bytes.len() + wire::HEADER)?;
            let bell = self.outbox.control().producer();
            if !has_room {
                bell.sleep(sleep::BOUND, None);
            }
            bell.cancel();
        }
        Ok(())
    }

    /// Wakes whoever in the host waits for this worker.
    fn ring(&self) {
        if self.duplex.doorbell().ring() {
            self.doorbell.signal();
        }
    }
}
