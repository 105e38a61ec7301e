//! Conditions, events and barriers: where processes wait for each other.

use broody_shm::arena::Arena;
use broody_shm::handle::Handle;
use broody_shm::robust::barrier::Barrier;
use broody_shm::robust::condition::Condition;
use broody_shm::robust::event::Event;
use broody_shm::robust::guarded::Guarded;
use broody_shm::sync::Deadline;

use crate::operation::{Operation, bury, done_if, stay_on_one_cpu};
use crate::other::Other;
use crate::trace::{Spot, Stop, Traced, marker};
use crate::{MANY, soon};

struct Notified {
    arena: &'static Arena,
    condition: Handle<Condition>,
    lock: Handle<Guarded>,
    others: Vec<Other>,
}

fn notified(arena: &'static Arena) -> Notified {
    let (condition, lock) = (Handle::<Condition>::new(arena), Handle::<Guarded>::new(arena, 0, 0));
    Notified { arena, condition: condition.unwrap(), lock: lock.unwrap(), others: Vec::new() }
}

fn add_waiter(notified: &mut Notified) {
    let condition = &notified.condition;
    let waiter = Other::asleep(|| u8::from(!condition.wait(soon(), || (), || ()).unwrap().0));
    notified.others.push(waiter);
}

/// Notifies whoever was not notified so far; everybody gets on. How many there were.
fn notify_the_rest(notified: &mut Notified) -> u32 {
    for waiter in &notified.others {
        waiter.settle();
    }
    let rest = notified.condition.notify(u32::MAX).unwrap();
    for waiter in notified.others.drain(..) {
        assert_eq!(waiter.end(notified.arena), 0, "it was notified");
    }
    rest
}

/// Uses a condition that nobody waits for.
fn use_condition(notified: &Notified) {
    let Notified { condition, lock, .. } = notified;
    for _ in 0..MANY / 4 {
        assert!(lock.acquire(soon()).unwrap().is_some());
        assert_eq!(condition.notify(1).unwrap(), 0, "nobody waits");
        let (came, _) = condition.wait(Deadline::Now, || assert!(lock.release().unwrap()), || ()).unwrap();
        assert!(!came);
    }
}

fn wait_under_lock(notified: &Notified) -> bool {
    let Notified { condition, lock, .. } = notified;
    let release = || assert!(lock.release().unwrap());
    let (came, acquired) = condition.wait(soon(), release, || lock.acquire(soon())).unwrap();
    assert!(acquired.unwrap().is_some());
    came
}

fn waits() -> Operation<Notified> {
    Operation::new(
        "wait for a condition",
        notified,
        |notified| assert!(wait_under_lock(notified)),
        |mut notified| {
            let rest = notify_the_rest(&mut notified);
            assert!(rest <= 1);
            let acquired = notified.lock.acquire(soon()).unwrap().expect("the lock is free");
            assert!(rest == 0 || acquired.owner_died, "who had not used it has passed it on");
            notified.lock.release().unwrap();
            use_condition(&notified);
            // The one notification was used up, or another one has got it.
            done_if(rest == 1)
        },
    )
    .warm_up(|notified| {
        notified.lock.acquire(soon()).unwrap();
        notified.condition.wait(Deadline::Now, || _ = notified.lock.release().unwrap(), || ()).unwrap();
    })
    .prepare(|notified| assert!(notified.lock.acquire(soon()).unwrap().is_some()))
}

#[test]
fn a_notification_that_a_dead_waiter_has_not_used_goes_to_the_next_one() {
    waits()
        .waits_for(|notified| {
            if notified.others.is_empty() {
                add_waiter(notified);
            }
            // Only when it waits for the condition. It may have waited for the arena's lock, which the victim had.
            notified.others[0].settle();
            // The victim, or the other one; nobody while both are kept from it.
            notified.condition.notify(1).unwrap() == 1
        })
        .kill_everywhere_at_first_use();
}

#[test]
fn who_has_waited_longest_is_notified_first_wherever_its_line_is() {
    stay_on_one_cpu();
    let mut notified = notified(Arena::create(1).unwrap());
    let notify_first = |notified: &mut Notified| {
        assert_eq!(notified.condition.notify(1).unwrap(), 1);
        assert_eq!(notified.others.remove(0).end(notified.arena), 0);
    };
    add_waiter(&mut notified);
    add_waiter(&mut notified);
    notify_first(&mut notified);
    // This one has the line of the first one, before that of the second one.
    add_waiter(&mut notified);
    notify_first(&mut notified);
    assert_eq!(notify_the_rest(&mut notified), 1);
}

#[test]
fn who_is_about_to_wait_does_not_sleep_through_the_notification() {
    Operation::new(
        "wait for a condition",
        notified,
        |notified| assert!(wait_under_lock(notified)),
        |mut notified| {
            assert_eq!(notify_the_rest(&mut notified), 0);
            done_if(true)
        },
    )
    .prepare(|notified| assert!(notified.lock.acquire(soon()).unwrap().is_some()))
    .waits_for(|notified| {
        // Whoever notifies has the lock, so that the waiter has given it back.
        if notified.lock.acquire(Deadline::Now).unwrap().is_none() {
            return false;
        }
        let notifications = notified.condition.notify(1).unwrap();
        assert!(notified.lock.release().unwrap());
        notifications == 1
    })
    .in_any_order()
    .stop_everywhere();
}

#[test]
fn who_is_about_to_wait_is_woken_though_the_notifier_dies_before_the_wake() {
    Operation::new(
        "wait for a condition",
        notified,
        |notified| assert!(wait_under_lock(notified)),
        |mut notified| {
            assert_eq!(notify_the_rest(&mut notified), 0);
            done_if(true)
        },
    )
    .prepare(|notified| assert!(notified.lock.acquire(soon()).unwrap().is_some()))
    .waits_for(|notified| {
        if notified.lock.is_locked() {
            return false;
        }
        let condition = &notified.condition;
        let dying = Traced::start(|| {
            condition.notify(0).unwrap();
            marker();
            condition.notify(1).unwrap();
            marker();
        });
        let notifies = dying.step_to_futex(libc::FUTEX_WAKE) == Stop::Trap;
        bury(notified.arena, dying);
        notifies
    })
    .in_any_order()
    .stop_everywhere();
}

#[test]
fn a_notification_is_for_one_whatever_becomes_of_the_notifier() {
    Operation::new(
        "notify one of two",
        notified,
        |notified| assert_eq!(notified.condition.notify(1).unwrap(), 1),
        |mut notified| {
            let rest = notify_the_rest(&mut notified);
            assert!(rest == 1 || rest == 2);
            use_condition(&notified);
            done_if(rest == 1)
        },
    )
    .warm_up(|notified| _ = notified.condition.notify(0).unwrap())
    .ready(|notified| {
        add_waiter(notified);
        add_waiter(notified);
    })
    .kill_everywhere();
}

#[test]
fn who_was_not_notified_by_the_dead_one_can_be_notified() {
    Operation::new(
        "notify all of three",
        notified,
        |notified| assert_eq!(notified.condition.notify(u32::MAX).unwrap(), 3),
        |mut notified| {
            let rest = notify_the_rest(&mut notified);
            use_condition(&notified);
            done_if(rest == 0)
        },
    )
    .warm_up(|notified| _ = notified.condition.notify(0).unwrap())
    .ready(|notified| (0..3).for_each(|_| add_waiter(notified)))
    .kill_everywhere();
}

struct Flag {
    arena: &'static Arena,
    event: Handle<Event>,
    others: Vec<Other>,
}

fn flag(arena: &'static Arena) -> Flag {
    Flag { arena, event: Handle::<Event>::new(arena).unwrap(), others: Vec::new() }
}

fn use_event(event: &Handle<Event>) {
    for _ in 0..MANY / 2 {
        event.clear();
        assert!(!event.wait(Deadline::Now).unwrap());
        event.set().unwrap();
        assert!(event.wait(Deadline::Now).unwrap());
    }
}

#[test]
fn an_event_is_set_for_all_or_for_nobody() {
    Operation::new(
        "set an event, with two sleepers",
        flag,
        |flag| flag.event.set().unwrap(),
        |mut flag| {
            let done = flag.event.is_set();
            for other in &flag.others {
                assert_eq!(other.settle(), done, "who sleeps is woken");
            }
            flag.event.set().unwrap();
            for other in flag.others.drain(..) {
                assert_eq!(other.end(flag.arena), 0);
            }
            use_event(&flag.event);
            done_if(done)
        },
    )
    .warm_up(|flag| {
        flag.event.set().unwrap();
        flag.event.clear();
    })
    .ready(|flag| {
        for _ in 0..2 {
            let event = &flag.event;
            let other = Other::asleep(|| u8::from(!event.wait(soon()).unwrap()));
            flag.others.push(other);
        }
    })
    .kill_everywhere();
}

fn waits_for_event() -> Operation<Flag> {
    Operation::new(
        "wait for an event",
        flag,
        |flag| assert!(flag.event.wait(soon()).unwrap()),
        |flag| {
            use_event(&flag.event);
            done_if(true)
        },
    )
    .warm_up(|flag| assert!(!flag.event.wait(Deadline::Now).unwrap()))
    .waits_for(|flag| {
        flag.event.set().unwrap();
        true
    })
    .in_any_order()
}

#[test]
fn who_waits_for_an_event_and_dies_harms_nobody() {
    waits_for_event().kill_everywhere();
}

#[test]
fn who_is_about_to_wait_for_an_event_does_not_sleep_through_it() {
    waits_for_event().stop_everywhere();
}

#[test]
fn who_is_about_to_wait_for_an_event_does_not_sleep_through_the_setters_death() {
    static SPOT: Spot = Spot::new();
    waits_for_event()
        .waits_for(|flag| {
            let event = &flag.event;
            let dying = Traced::start(|| {
                event.set().unwrap();
                event.clear();
                marker();
                event.set().unwrap();
                marker();
            });
            dying.run_until(&SPOT, || event.is_set());
            bury(flag.arena, dying);
            true
        })
        .stop_everywhere();
}

struct Meeting {
    arena: &'static Arena,
    barrier: Handle<Barrier>,
    others: Vec<Other>,
}

fn meeting(arena: &'static Arena, parties: u32) -> Meeting {
    Meeting { arena, barrier: Handle::<Barrier>::new(arena, parties).unwrap(), others: Vec::new() }
}

const MET: u8 = 1;
const BROKEN: u8 = 2;

fn meet(barrier: &Handle<Barrier>) -> u8 {
    if barrier.wait(soon(), || true).unwrap().is_ok() { MET } else { BROKEN }
}

/// A party, which takes its leave in the end.
fn party(meeting: &Meeting) -> Other {
    let (arena, barrier) = (meeting.arena, &meeting.barrier);
    Other::start(|| {
        let end = meet(barrier);
        arena.leave();
        end
    })
}

fn add_party(meeting: &mut Meeting) {
    let party = party(meeting);
    assert!(!party.settle());
    meeting.others.push(party);
}

/// Those who still wait were left alone rightly: lets them go. Whether the others have met, all of them or none.
fn have_met(meeting: &mut Meeting) -> bool {
    let barrier = &meeting.barrier;
    let waits = meeting.others.iter().filter(|other| !other.settle()).count() as u32;
    assert!(!barrier.is_broken() || waits == 0, "nobody sleeps before a broken barrier");
    assert!(barrier.is_broken() || barrier.waiting() == waits);
    if waits > 0 {
        barrier.abort().unwrap();
    }
    let ends: Vec<_> = meeting.others.drain(..).map(|other| other.end(meeting.arena)).collect();
    assert!(ends.iter().all(|end| *end == ends[0] && [MET, BROKEN].contains(end)), "{ends:?}");
    ends[0] == MET
}

/// Uses a barrier that may be broken.
fn use_barrier(meeting: &mut Meeting) {
    for _ in 0..MANY / 2 {
        meeting.barrier.reset().unwrap();
        assert!(!meeting.barrier.is_broken());
        meeting.barrier.abort().unwrap();
        assert_eq!(meet(&meeting.barrier), BROKEN);
    }
    meeting.barrier.reset().unwrap();
    for _ in 1..meeting.barrier.parties() {
        add_party(meeting);
    }
    assert_eq!(meet(&meeting.barrier), MET);
    for other in meeting.others.drain(..) {
        assert_eq!(other.end(meeting.arena), MET);
    }
}

fn arrives(name: &'static str, stage: fn(&'static Arena) -> Meeting) -> Operation<Meeting> {
    Operation::new(
        name,
        stage,
        |meeting| assert_eq!(meet(&meeting.barrier), MET),
        |mut meeting| {
            let met = have_met(&mut meeting);
            assert!(!met || meeting.barrier.is_broken(), "who has taken part and died will not come again");
            use_barrier(&mut meeting);
            done_if(met)
        },
    )
    .warm_up(|meeting| meeting.barrier.reset().unwrap())
}

#[test]
fn the_last_one_of_a_meeting_comes_or_breaks_it() {
    arrives("come to a barrier, last of three", |arena| meeting(arena, 3))
        .ready(|meeting| {
            add_party(meeting);
            add_party(meeting);
        })
        .kill_everywhere();
}

#[test]
fn who_waits_at_a_barrier_and_dies_breaks_it_unless_all_have_met() {
    arrives("come to a barrier, and wait", |arena| meeting(arena, 2))
        .waits_for(|meeting| {
            let party = party(meeting);
            party.settle();
            meeting.others.push(party);
            true
        })
        .kill_everywhere();
}

#[test]
fn who_is_about_to_wait_at_a_barrier_does_not_sleep_through_the_meeting() {
    arrives("come to a barrier, and wait", |arena| meeting(arena, 2))
        .waits_for(|meeting| {
            let party = party(meeting);
            party.settle();
            meeting.others.push(party);
            true
        })
        .stop_everywhere();
}
