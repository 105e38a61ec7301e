//! One worker, as the host sees it: its process, the link to it, and the leases on tasks that were given to it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broody_os::events::EventFd;
use broody_os::wait::ExitStatus;
use broody_os::{clock, proc, signals};
use broody_shm::Corrupt;
use broody_shm::duplex::{Begun, Duplex, Host, LEASES};

use super::apart::{Apart, Ticket};
use super::arguments::Argument;
use super::batch::{Answer, Batch, Run};
use super::failure::Failure;
use super::objects::WithObjects;
use super::options::Terms;
use super::pace::Paces;
use super::plan::{Plan, Recipe};
use super::schedule::Ledger;
use super::watch::{self, AtHand, Finding, Verdict};
use super::wire::{self, APART, How, LONGEST, Order, Report, Say, Span};
use super::worker::{self, DESCRIPTORS, stop_signal};
use crate::function::{FunctionId, Outcome};
use crate::handle::Outgoing;
use crate::process::{Launch, Process, StartMethod, Starting};
use crate::{Error, Result, codec, memory};

/// The most frames that a worker has at a time. Fewer than leases: a lease is only given again when its frame is long over.
const FRAMES: usize = LEASES - 2;

/// How much work a worker has waiting beside the frame at hand, when it is cut into small frames.
const AHEAD: Duration = Duration::from_micros(400);

/// How long a worker may take to stop. Longer, it is in an uninterruptible sleep, and goes on.
const STOP_WITHIN: Duration = Duration::from_millis(5);

/// A worker.
pub(super) struct Slot {
    pub(super) process: Process,
    link: Host,
    frames: VecDeque<Leased>,
    next_frame: u32,
    /// It writes nonsense, and was killed for it.
    corrupt: bool,
    quitting: bool,
    /// The lowest number that was free among the workers' when it started.
    pub(super) seat: usize,
    /// Of the objects in results that this process was not told of.
    mark: u64,
    started: Duration,
    /// How many tasks were given to it.
    given: u64,
    /// Since when it was seen to have nothing to do.
    idle_since: Option<Duration>,
    /// Since when it is stopped because it is not its turn, and for how long it was before while it had the frame at hand.
    paused_since: Option<Duration>,
    paused_for: Duration,
    /// Somebody wants to know what its tasks take.
    pub(super) observed: bool,
    /// What the task took whose answer comes next.
    span: Option<Span>,
    /// It was ended because it did not get ready.
    is_overdue: bool,
    /// Why it is being ended, if it is because of the task that it runs.
    sentence: Option<Verdict>,
    asked_to_stop: Option<AtHand>,
    /// A thread sleeps at its doorbell, and takes what it publishes.
    has_sleeper: bool,
    /// A thread is about to sleep there: its doorbell does not ring for the pool's thread.
    is_reserved: bool,
}

/// Tasks that were given to the worker: `range` of the batch, of which the first `answered` have their answers.
struct Leased {
    frame: u32,
    run: Run,
    answered: usize,
    /// Its first argument, if there was no shared memory for it before.
    _apart: Option<Apart>,
}

/// What is left of a worker that has ended.
pub(super) struct Remains {
    /// Tasks that it had begun: at most one, unless its memory was spoiled.
    pub(super) lost: Vec<Run>,
    /// Tasks that it had not begun, oldest first.
    pub(super) unstarted: Vec<Run>,
}

/// What became of an offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// So many tasks from the front were taken.
    Taken(usize),
    /// The first task cannot be handed over at all.
    Unsendable(String),
    /// Not now.
    Full,
}

/// A worker that is being started: it must be waited for.
pub(super) struct Newcomer {
    starting: Starting,
    link: Host,
    seat: usize,
    mark: u64,
}

impl Newcomer {
    /// It is not wanted any more.
    pub(super) fn give_up(self) {
        self.starting.give_up();
    }

    /// Waits until it runs.
    pub(super) fn running(self) -> Result<Slot> {
        let Self { starting, link, seat, mark } = self;
        Ok(Slot {
            process: starting.running()?,
            seat,
            mark,
            started: clock::monotonic(),
            given: 0,
            idle_since: None,
            paused_since: None,
            paused_for: Duration::ZERO,
            observed: false,
            span: None,
            is_overdue: false,
            link,
            frames: VecDeque::new(),
            next_frame: 0,
            corrupt: false,
            quitting: false,
            sentence: None,
            asked_to_stop: None,
            has_sleeper: false,
            is_reserved: false,
        })
    }
}

impl Slot {
    /// Begins to start a worker.
    pub(super) fn begin(recipe: &Recipe, name: &str, seat: usize, doorbell: &EventFd) -> Result<Newcomer> {
        let (link, memory) = Host::create("broody-worker", wire::CAPACITY)?;
        let own: [_; DESCRIPTORS] = [memory.as_fd(), doorbell.as_fd()];
        let mut plan = recipe.plan_for(seat);
        plan.host = memory::arena()?.my_bits()?;
        plan.mark = next_mark();
        let starting = start(recipe, name, &plan, &own)?;
        Ok(Newcomer { starting, link, seat, mark: plan.mark })
    }

    /// Whether it has come so far that it takes tasks.
    pub(super) fn was_ready(&self) -> bool {
        self.link.duplex.is_ready()
    }

    /// How many frames it has.
    pub(super) fn load(&self) -> usize {
        self.frames.len()
    }

    /// How many tasks that were given to it have no answer yet.
    pub(super) fn outstanding(&self) -> usize {
        self.frames.iter().map(|leased| leased.run.len() - leased.answered).sum()
    }

    /// Whether it should have more work now: always two frames, so that it need not wait for the next one; more if they are short.
    pub(super) fn wants_more(&self, paces: &Paces) -> bool {
        let ahead = || {
            self.frames
                .iter()
                .skip(1)
                .map(|leased| paces.expect(leased.run.batch.function, leased.run.len() - leased.answered))
        };
        // The lease of a frame that is still at work must not be granted again.
        let lease_is_free = self
            .frames
            .front()
            .is_none_or(|oldest| self.next_frame.wrapping_sub(oldest.frame) < FRAMES as u32);
        lease_is_free
            && !self.quitting
            && !self.corrupt
            && self.sentence.is_none()
            && (self.frames.len() < 2 || (self.frames.len() < FRAMES && ahead().sum::<Duration>() < AHEAD))
    }

    /// Gives it at most `most` tasks from the front of `run`. With `reserve`, the calling thread is about to sleep until they are done.
    pub(super) fn offer(&mut self, run: &Run, most: usize, reserve: bool) -> Offer {
        let (batch, start) = (&run.batch, run.range.start);
        let function = batch.function;
        let arguments = batch.arguments();
        let mut first = None;
        if let Argument::Own(bytes) = arguments.get(start)
            && bytes.len() > LONGEST
        {
            match Apart::copy_of(bytes) {
                Ok(apart) => first = Some(apart),
                Err(reason) => return Offer::Unsendable(reason),
            }
        }
        let argument = |index| match &first {
            Some(apart) if index == start => Argument::Apart(apart.ticket()),
            _ => arguments.get(index),
        };
        let mut bytes = 0;
        let mut end = start;
        while end < run.range.end && end - start < most {
            bytes += 4 + match argument(end) {
                Argument::Own(bytes) => bytes.len(),
                Argument::Apart(_) => Ticket::LENGTH,
            };
            if bytes > LONGEST + 4 {
                break;
            }
            end += 1;
        }
        let frame = self.next_frame;
        let header = Order::Frame { frame, function, say: what_to_say(&batch.terms, self.observed) }.header();
        // The last item may have gone over the limit: its bytes are counted and not written.
        match self.link.outgoing.begin(header.len() + bytes) {
            Ok(Some(mut draft)) => {
                draft.put(&header);
                for index in start..end {
                    match argument(index) {
                        Argument::Own(bytes) => {
                            draft.put(&(bytes.len() as u32).to_le_bytes());
                            draft.put(bytes);
                        }
                        Argument::Apart(ticket) => {
                            draft.put(&APART.to_le_bytes());
                            draft.put(&ticket.to_bytes());
                        }
                    }
                }
                if reserve && !self.has_sleeper {
                    // The worker may be done before its caller sleeps: it is not to ring for the pool's thread then.
                    self.link.duplex.doorbell().attend();
                    self.is_reserved = true;
                }
                // The lease first: the worker claims from it as soon as it sees the frame.
                self.link.duplex.lease(frame).grant(frame, (end - start) as u16);
                draft.publish();
            }
            Ok(None) => return Offer::Full,
            Err(Corrupt) => return self.condemn(),
        }
        self.wake();
        self.given(Run { batch: batch.clone(), range: start..end }, first);
        Offer::Taken(end - start)
    }

    fn given(&mut self, run: Run, apart: Option<Apart>) {
        self.given += run.len() as u64;
        self.idle_since = None;
        if self.frames.is_empty() {
            self.paused_for = Duration::ZERO;
        }
        self.frames.push_back(Leased { frame: self.next_frame, run, answered: 0, _apart: apart });
        self.next_frame = self.next_frame.wrapping_add(1);
    }

    /// Wakes it, if it sleeps.
    fn wake(&self) {
        self.link.outgoing.control().consumer().ring();
    }

    /// Asks it to end, once it has done what it has.
    pub(super) fn ask_to_quit(&mut self) {
        if !self.quitting && matches!(self.link.outgoing.push(&[&Order::Quit.header()]), Ok(true)) {
            self.quitting = true;
            self.wake();
        }
    }

    /// Whether it is stopped because it is not its task's turn.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    /// Whether it takes no more tasks, and nobody has to be told when it ends.
    pub(super) fn is_leaving(&self) -> bool {
        self.quitting
    }

    /// How many tasks may still be given to it, of `most` in its life.
    pub(super) fn allowance(&self, most: Option<u64>) -> usize {
        most.map_or(usize::MAX, |most| most.saturating_sub(self.given) as usize)
    }

    /// Whether it has had nothing to do for so long, at the time `now`; else when it will have, if nothing comes.
    pub(super) fn idles(&mut self, limit: Duration, now: Duration) -> std::result::Result<(), Duration> {
        if !self.frames.is_empty() {
            return Err(Duration::MAX);
        }
        let end = self.idle_since.get_or_insert(now).saturating_add(limit);
        if end <= now { Ok(()) } else { Err(end) }
    }

    /// Ends it, if it should be ready by now and is not. Else when it should be.
    pub(super) fn check_readiness(&mut self, patience: Duration, now: Duration) -> Option<Duration> {
        let limit = self.started.saturating_add(patience);
        if self.was_ready() || self.is_overdue {
            return None;
        }
        if limit > now {
            return Some(limit);
        }
        self.is_overdue = true;
        let _ = self.process.kill();
        None
    }

    /// Whether it has grown beyond `limit` bytes, while it runs a task. If it has without one, it is asked to end.
    pub(super) fn check_size(&mut self, limit: u64) -> Option<Verdict> {
        if self.quitting || self.sentence.is_some() {
            return None;
        }
        let size = proc::resident(self.process.pid()).unwrap_or(0);
        if size > limit && self.frames.is_empty() {
            self.ask_to_quit();
        }
        (size > limit && !self.quitting).then_some(Verdict::TooLarge { limit, grown: size })
    }

    /// Whether it may be given tasks at all.
    pub(super) fn takes_tasks(&self) -> bool {
        !self.quitting && !self.corrupt && self.sentence.is_none() && self.paused_since.is_none()
    }

    /// Stops it, unless it has something that others may be waiting for. Whether it is stopped.
    pub(super) fn pause(&mut self, now: Duration) -> bool {
        if self.paused_since.is_some() || self.sentence.is_some() {
            return true;
        }
        let _ = self.process.signal(signals::SIGSTOP);
        let stopped = proc::await_stop(self.process.pid(), STOP_WITHIN);
        let is_free =
            || memory::existing_arena().is_none_or(|arena| !arena.keeps_others_up(self.process.pid()));
        if stopped && is_free() {
            self.paused_since = Some(now);
            return true;
        }
        let _ = self.process.signal(signals::SIGCONT);
        false
    }

    /// Lets it go on. Whether it was stopped.
    pub(super) fn resume(&mut self, now: Duration) -> bool {
        let Some(since) = self.paused_since.take() else { return false };
        self.paused_for += now.saturating_sub(since);
        let _ = self.process.signal(signals::SIGCONT);
        true
    }

    /// Before the pool's thread sleeps: from now on the worker rings, unless a thread of its own waits for it.
    pub(super) fn listen(&self) {
        if !self.has_sleeper {
            self.link.duplex.doorbell().listen();
        }
    }

    /// The pool's thread does not sleep any more.
    pub(super) fn stop_listening(&self) {
        if !self.has_sleeper {
            self.link.duplex.doorbell().cancel();
        }
    }

    /// Whether there is nothing new for the pool's thread.
    pub(super) fn is_silent(&self) -> bool {
        self.corrupt || self.has_sleeper || self.link.incoming.is_empty()
    }

    /// Whether it has a task of this batch, and no thread waits for it yet.
    pub(super) fn can_be_waited_for(&self, batch: &Arc<Batch>) -> bool {
        !self.has_sleeper && self.has_any_of(batch)
    }

    /// If a thread was about to sleep here and did not: the doorbell is the pool's thread's again. Whether that was so; what is new has to
    /// be taken then.
    pub(super) fn end_reservation(&mut self) -> bool {
        let was_reserved = std::mem::take(&mut self.is_reserved) && !self.has_sleeper;
        if was_reserved {
            self.link.duplex.doorbell().listen();
        }
        was_reserved
    }

    /// The calling thread is going to sleep at this worker's doorbell, unless there is something new already.
    pub(super) fn begin_sleep(&mut self) -> Option<Duplex> {
        self.is_reserved = false;
        self.link.duplex.doorbell().attend();
        self.has_sleeper = self.link.incoming.is_empty();
        if !self.has_sleeper {
            self.link.duplex.doorbell().listen();
        }
        self.has_sleeper.then(|| self.link.duplex.clone())
    }

    /// It does not sleep any more; the pool's thread may, and is rung for from now on. What is new has to be taken after this.
    pub(super) fn end_sleep(&mut self) {
        self.has_sleeper = false;
        self.link.duplex.doorbell().listen();
    }

    /// Somebody else has changed what the thread waits for: it has to look again.
    fn rouse(&self) {
        if self.has_sleeper {
            self.link.duplex.doorbell().rouse();
        }
    }

    /// Takes everything that it has published, and hands out the answers. Gives their number.
    pub(super) fn drain(&mut self, ledger: &mut Ledger) -> usize {
        let mut answered = 0;
        let mut unreleased = 0;
        while !self.corrupt {
            match self.take_one(ledger) {
                Ok(None) => break,
                Ok(Some(count)) => {
                    answered += count;
                    unreleased += 1;
                }
                Err(Corrupt) => {
                    self.condemn();
                }
            }
            if unreleased == 256 {
                self.link.incoming.release();
                unreleased = 0;
            }
        }
        if unreleased > 0 {
            self.link.incoming.release();
            self.rouse();
        }
        answered
    }

    fn take_one(&mut self, ledger: &mut Ledger) -> std::result::Result<Option<usize>, Corrupt> {
        let Some(record) = self.link.incoming.take_next()? else { return Ok(None) };
        let (report, rest) = Report::parse(record)?;
        let (frame, index, how) = match report {
            Report::Answer { frame, index, how } => (frame, usize::from(index), how),
            Report::Pace { function, tasks, nanoseconds } => {
                ledger.paces.note(function, tasks, nanoseconds);
                let each = nanoseconds / u64::from(tasks.max(1));
                ledger.took.push((function, Duration::from_nanos(each)));
                return Ok(Some(0));
            }
            Report::Span(span) => {
                self.span = Some(span);
                return Ok(Some(0));
            }
        };
        let at = self.frames.iter().position(|leased| leased.frame == frame).ok_or(Corrupt)?;
        let leased = &mut self.frames[at];
        // Tasks are claimed in order, and each is answered before the next is claimed.
        if index != leased.answered || index >= leased.run.len() {
            return Err(Corrupt);
        }
        let pid = self.process.pid();
        let failed = |outcome| Answer::Failed(Failure::Outcome { pid, outcome });
        let length = rest.len();
        let answer = match how {
            How::Returned => Answer::Returned(rest),
            How::Apart => {
                let (holds, rest) = wire::take_holds(rest)?;
                let (length, _) = rest.split::<8>().ok_or(Corrupt)?;
                Answer::WithObjects(WithObjects::apart(&holds, u64::from_le_bytes(length)))
            }
            How::WithObjects => {
                let (holds, rest) = wire::take_holds(rest)?;
                let mut bytes = Vec::with_capacity(rest.len());
                rest.copy_to(&mut bytes);
                Answer::WithObjects(WithObjects::new(&holds, bytes))
            }
            How::Failed => {
                let mut bytes = Vec::new();
                rest.copy_to(&mut bytes);
                failed(codec::decode::<Outcome>(&bytes).map_err(|_| Corrupt)?)
            }
        };
        let (batch, at_batch) = (&leased.run.batch, leased.run.range.start + index);
        let is_failure = matches!(answer, Answer::Failed(_));
        if let Some(span) = self.span.take() {
            let length = match &answer {
                Answer::WithObjects(result) => result.len(),
                _ => length,
            };
            ledger.ended.push(span.event(pid, batch, at_batch, length, is_failure));
        }
        match answer {
            Answer::Failed(failure) if batch.terms.retry_errors => {
                ledger.failed.push((Run::one(batch.clone(), at_batch), failure));
            }
            answer => {
                ledger.count(is_failure);
                batch.deliver(at_batch, answer);
            }
        }
        leased.answered += 1;
        if leased.answered == leased.run.len() {
            self.frames.remove(at);
            self.paused_for = Duration::ZERO;
        }
        Ok(Some(1))
    }

    /// The task that it has begun and not answered, if it has one, and the frame that it is of.
    fn at_hand(&self) -> Option<(AtHand, &Run)> {
        let leased = self.frames.front()?;
        let task = AtHand { frame: leased.frame, index: leased.answered };
        (self.claimed(leased) > leased.answered).then_some((task, &leased.run))
    }

    /// How many tasks it has begun and not answered: one at most, unless its memory was spoiled.
    pub(super) fn begun(&self) -> usize {
        usize::from(self.at_hand().is_some())
    }

    /// Looks whether the task at hand keeps to its limits. What is to be done, and when to look again.
    pub(super) fn look(&mut self, now: Duration) -> Finding {
        let Some(leased) = self.frames.front() else { return Finding::default() };
        if self.sentence.is_some() || self.paused_since.is_some() || !leased.run.batch.terms.are_watched() {
            return Finding::default();
        }
        let task = AtHand { frame: leased.frame, index: leased.answered };
        let begun = self.link.duplex.begun();
        let begun = begun.filter(|begun| task == AtHand { frame: begun.frame, index: begun.index.into() });
        // While it was stopped it did not run.
        let begun = begun.map(|begun| Begun { since: begun.since + self.paused_for, ..begun });
        let mut finding = watch::look(&leased.run.batch.terms, begun, self.process.pid(), now);
        finding.task = Some(task);
        if finding.is_late && self.asked_to_stop != Some(task) {
            self.asked_to_stop = Some(task);
            self.link.duplex.ask_to_stop(task.frame, task.index as u16);
            let _ = self.process.signal(stop_signal());
        }
        finding
    }

    /// Ends the worker because of the task that it runs, which has been looked at just now: `still` says whether it is that one. What
    /// it has not begun must have been taken back, so that it begins nothing else meanwhile.
    pub(super) fn sentence(&mut self, verdict: Verdict, still: impl Fn(AtHand, &Run) -> bool) {
        let is_still = self.at_hand().is_some_and(|(task, run)| still(task, run));
        if is_still && self.sentence.is_none() {
            self.sentence = Some(verdict);
            let _ = self.process.kill();
        }
    }

    /// Why it was ended, if it was because of the task that it ran.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.sentence
    }

    /// The index in the batch of the task that it runs, if it is one of that.
    pub(super) fn running_of(&self, batch: &Arc<Batch>) -> Option<usize> {
        let (task, run) = self.at_hand()?;
        Arc::ptr_eq(&run.batch, batch).then_some(run.range.start + task.index)
    }

    /// Whether it has tasks of this batch.
    pub(super) fn has_any_of(&self, batch: &Arc<Batch>) -> bool {
        self.has_any(|run| Arc::ptr_eq(&run.batch, batch))
    }

    /// Whether it has tasks that `wanted` says.
    pub(super) fn has_any(&self, wanted: impl Fn(&Run) -> bool) -> bool {
        self.frames.iter().any(|leased| wanted(&leased.run))
    }

    /// Whether it has the frame that began with the task `id`.
    pub(super) fn has_frame(&self, id: u64) -> bool {
        self.frames.iter().any(|leased| leased.run.first() == id)
    }

    /// Whether it has one frame, and will have done it within `limit` of its beginning, as far as is known.
    pub(super) fn is_soon_done(&self, paces: &Paces, limit: Duration) -> bool {
        let fits = |run: &Run| paces.fit(run.batch.function, run.len(), limit);
        self.frames.len() == 1 && self.frames.iter().all(|leased| fits(&leased.run))
    }

    /// How many of its tasks it has not begun.
    pub(super) fn unclaimed(&self) -> usize {
        self.frames.iter().map(|leased| leased.run.len() - self.claimed(leased)).sum()
    }

    fn claimed(&self, leased: &Leased) -> usize {
        // Never more than were granted, unless the worker has overwritten the word.
        usize::from(self.link.duplex.lease(leased.frame).claimed(leased.frame)).min(leased.run.len())
    }

    /// Takes back at most `most` tasks that it has not begun, those that it would begin last. Gives them oldest first.
    pub(super) fn take_back(&mut self, most: usize) -> Vec<Run> {
        let mut left = most;
        let mut back = Vec::new();
        for at in (0..self.frames.len()).rev() {
            let unclaimed = self.frames[at].run.len() - self.claimed(&self.frames[at]);
            if left == 0 || unclaimed == 0 {
                break;
            }
            let leased = &mut self.frames[at];
            let keep = unclaimed.saturating_sub(left) as u16;
            let Some(end) = self.link.duplex.lease(leased.frame).take_back(leased.frame, keep) else { break };
            // A worker with a memory error might have lowered the end below what it has answered.
            let end = leased.run.range.start + usize::from(end).max(leased.answered);
            if end < leased.run.range.end {
                back.push(Run { batch: leased.run.batch.clone(), range: end..leased.run.range.end });
                left = left.saturating_sub(leased.run.range.end - end);
                leased.run.range.end = end;
            }
        }
        self.given -= back.iter().map(|run| run.len() as u64).sum::<u64>();
        self.frames.retain(|leased| leased.answered < leased.run.len());
        self.rouse();
        back.reverse();
        back
    }

    /// After its end, and after the last [`drain`](Self::drain): objects in answers that it did not come to give are nobody's.
    pub(super) fn end_objects(&self) {
        if let Some(arena) = memory::existing_arena() {
            arena.end_marked(self.mark);
        }
    }

    /// After its end, and after the last [`drain`](Self::drain).
    pub(super) fn remains(&mut self) -> Remains {
        self.rouse();
        let mut remains = Remains { lost: Vec::new(), unstarted: Vec::new() };
        for leased in std::mem::take(&mut self.frames) {
            let batch = &leased.run.batch;
            let start = leased.run.range.start;
            let (answered, claimed) =
                (start + leased.answered, start + self.claimed(&leased).max(leased.answered));
            remains.lost.push(Run { batch: batch.clone(), range: answered..claimed });
            remains.unstarted.push(Run { batch: batch.clone(), range: claimed..leased.run.range.end });
        }
        remains.lost.retain(|run| run.len() > 0);
        remains.unstarted.retain(|run| run.len() > 0);
        remains
    }

    /// Every task that has no answer.
    pub(super) fn abandon(&mut self) -> Vec<Run> {
        self.rouse();
        let unanswered = |leased: Leased| Run {
            range: leased.run.range.start + leased.answered..leased.run.range.end,
            batch: leased.run.batch,
        };
        std::mem::take(&mut self.frames).into_iter().map(unanswered).collect()
    }

    fn condemn(&mut self) -> Offer {
        self.corrupt = true;
        let _ = self.process.kill();
        Offer::Full
    }

    /// Why it ended before it was ready.
    pub(super) fn early_failure(&self, status: ExitStatus) -> String {
        if self.is_overdue {
            return "it did not get ready in time: its initializer did not return".to_owned();
        }
        let said = self.process.delivered().and_then(|delivered| match &delivered.outcome {
            Outcome::Returned => {
                codec::decode::<std::result::Result<(), String>>(delivered.result()).ok()?.err()
            }
            failed => failed.clone().reason(),
        });
        said.or_else(|| self.process.failure()).unwrap_or_else(|| format!("it ended with {status}"))
    }
}

/// How a worker has ended whose pidfd says that it has: waits for the report.
pub(super) fn ending(process: &Process) -> ExitStatus {
    let _ = process.wait_until(Instant::now() + 2 * crate::process::REPORT);
    process.exit_status().unwrap_or(ExitStatus::Unknown)
}

/// A mark that no other worker of this process's pools ever has; never 0.
fn next_mark() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a worker is to say when it begins tasks under these terms.
fn what_to_say(terms: &Terms, observed: bool) -> Say {
    match (observed, terms.memory_limit, terms.are_watched()) {
        (true, ..) => Say::Everything,
        (_, Some(_), _) => Say::WhenAndHowLarge,
        (_, None, true) => Say::When,
        (_, None, false) => Say::Nothing,
    }
}

/// Begins to start the process of a worker.
fn start(recipe: &Recipe, name: &str, plan: &Plan, own: &[BorrowedFd<'_>; DESCRIPTORS]) -> Result<Starting> {
    if recipe.method == StartMethod::Fork {
        let copies = own.map(|descriptor| descriptor.try_clone_to_owned());
        return Process::builder().name(name).daemon(true).begin_fork(|| {
            // Of the child's own: it has copies of its parent's, too.
            let [link, doorbell] = copies;
            match (link, doorbell) {
                (Ok(link), Ok(doorbell)) => worker::work_with([link, doorbell], plan),
                _ => Err("no descriptor was left (RLIMIT_NOFILE)".to_owned()),
            }
        });
    }
    let mut outgoing = Outgoing::default();
    for objects in recipe.objects.iter() {
        outgoing.extend(objects.take()?);
    }
    let argument = codec::encode(plan).map_err(|reason| Error::Encode {
        what: "the argument",
        function: "a worker's start".to_owned(),
        reason,
    })?;
    let launch = Launch {
        name: Some(name),
        daemon: true,
        method: recipe.method,
        function: function_of(worker::work),
        argument: &argument,
        own,
    };
    launch.ask(outgoing).map(Starting::Asked)
}

fn function_of<F, A, R>(_: F) -> FunctionId
where
    F: Fn(A) -> R + Copy + 'static,
    A: serde::de::DeserializeOwned,
    R: serde::Serialize,
{
    FunctionId::of::<F, A, R>()
}
