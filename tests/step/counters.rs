//! Semaphores, and permits that have owners.

use broody_shm::arena::Arena;
use broody_shm::handle::Handle;
use broody_shm::robust::permits::Permits;
use broody_shm::robust::semaphore::Semaphore;
use broody_shm::sync::Deadline;

use crate::operation::{Operation, Outcome, bury, done_if, stay_on_one_cpu};
use crate::other::Other;
use crate::trace::{Spot, Traced, marker};
use crate::{MANY, soon};

struct Tokens {
    arena: &'static Arena,
    semaphore: Handle<Semaphore>,
    others: Vec<Other>,
}

fn tokens(arena: &'static Arena, value: u32) -> Tokens {
    let semaphore = Handle::<Semaphore>::new(arena, value).unwrap();
    Tokens { arena, semaphore, others: Vec::new() }
}

fn acquire(semaphore: &Handle<Semaphore>) {
    assert!(semaphore.acquire(soon()).unwrap());
}

fn release(semaphore: &Handle<Semaphore>) {
    assert!(semaphore.release(1).unwrap());
}

/// All that there should be are there; takes them, and uses the semaphore.
fn use_tokens(semaphore: &Handle<Semaphore>, value: u32) {
    assert_eq!(semaphore.value(), value);
    for _ in 0..value {
        assert!(semaphore.acquire(Deadline::Now).unwrap());
    }
    assert!(!semaphore.acquire(Deadline::Now).unwrap());
    for _ in 0..MANY / 2 {
        release(semaphore);
        acquire(semaphore);
    }
    assert_eq!(semaphore.value(), 0);
}

fn add_taker(tokens: &mut Tokens) {
    let semaphore = &tokens.semaphore;
    let taker = Other::asleep(|| u8::from(!semaphore.acquire(soon()).unwrap()));
    tokens.others.push(taker);
}

fn takers_end(tokens: &mut Tokens) {
    for taker in tokens.others.drain(..) {
        assert_eq!(taker.end(tokens.arena), 0, "it got its token");
    }
}

#[test]
fn a_token_is_taken_or_there() {
    Operation::new(
        "acquire a semaphore",
        |arena| tokens(arena, 2),
        |tokens| acquire(&tokens.semaphore),
        |tokens| {
            let value = tokens.semaphore.value();
            assert!(value == 1 || value == 2);
            use_tokens(&tokens.semaphore, value);
            done_if(value == 1)
        },
    )
    .warm_up(|tokens| {
        acquire(&tokens.semaphore);
        release(&tokens.semaphore);
    })
    .kill_everywhere();
}

#[test]
fn a_token_that_is_given_goes_to_who_sleeps() {
    Operation::new(
        "release a semaphore, with a sleeper",
        |arena| tokens(arena, 0),
        |tokens| release(&tokens.semaphore),
        |mut tokens| {
            let done = tokens.others[0].settle();
            if !done {
                assert_eq!(tokens.semaphore.value(), 0, "nobody sleeps while there is a token");
                release(&tokens.semaphore);
            }
            takers_end(&mut tokens);
            use_tokens(&tokens.semaphore, 0);
            done_if(done)
        },
    )
    .warm_up(|tokens| _ = tokens.semaphore.acquire(Deadline::Now).unwrap())
    .ready(add_taker)
    .kill_everywhere();
}

#[test]
fn tokens_that_are_given_at_once_wake_as_many() {
    Operation::new(
        "release two tokens, with two sleepers",
        |arena| tokens(arena, 0),
        |tokens| assert!(tokens.semaphore.release(2).unwrap()),
        |mut tokens| {
            let done = tokens.others[0].settle();
            assert_eq!(tokens.others[1].settle(), done, "both or none");
            if !done {
                assert_eq!(tokens.semaphore.value(), 0, "nobody sleeps while there is a token");
                assert!(tokens.semaphore.release(2).unwrap());
            }
            takers_end(&mut tokens);
            use_tokens(&tokens.semaphore, 0);
            done_if(done)
        },
    )
    .warm_up(|tokens| _ = tokens.semaphore.acquire(Deadline::Now).unwrap())
    .ready(|tokens| {
        add_taker(tokens);
        add_taker(tokens);
    })
    .kill_everywhere();
}

fn waits_for_token() -> Operation<Tokens> {
    Operation::new(
        "acquire a semaphore, after a wait",
        |arena| tokens(arena, 0),
        |tokens| acquire(&tokens.semaphore),
        |mut tokens| {
            takers_end(&mut tokens);
            let value = tokens.semaphore.value();
            assert!(value <= 1);
            use_tokens(&tokens.semaphore, value);
            done_if(value == 0)
        },
    )
    .warm_up(|tokens| _ = tokens.semaphore.acquire(Deadline::Now).unwrap())
    .waits_for(|tokens| {
        // One for each.
        release(&tokens.semaphore);
        tokens.others.iter().for_each(|_| release(&tokens.semaphore));
        true
    })
}

#[test]
fn who_waits_for_a_token_takes_it_or_not() {
    waits_for_token().kill_everywhere();
}

#[test]
fn who_waits_for_a_token_and_dies_leaves_it_to_others() {
    waits_for_token().ready(add_taker).in_any_order().kill_everywhere();
}

#[test]
fn who_is_about_to_wait_for_a_token_does_not_sleep_through_its_release() {
    waits_for_token().stop_everywhere();
}

#[test]
fn who_is_about_to_wait_for_a_token_does_not_sleep_through_the_releasers_death() {
    static SPOT: Spot = Spot::new();
    waits_for_token()
        .waits_for(|tokens| {
            let semaphore = &tokens.semaphore;
            let dying = Traced::start(|| {
                semaphore.acquire(Deadline::Now).unwrap();
                marker();
                release(semaphore);
                marker();
            });
            dying.run_until(&SPOT, || semaphore.value() == 1);
            bury(tokens.arena, dying);
            true
        })
        .stop_everywhere();
}

struct Owned {
    arena: &'static Arena,
    permits: Handle<Permits>,
    others: Vec<Other>,
    dying: Option<Traced>,
}

const COUNT: u32 = 3;

/// Some of the permits are the survivor's.
fn owned(arena: &'static Arena, taken: u32) -> Owned {
    let permits = Handle::<Permits>::new(arena, COUNT).unwrap();
    (0..taken).for_each(|_| assert!(permits.acquire(Deadline::Now).unwrap()));
    Owned { arena, permits, others: Vec::new(), dying: None }
}

/// All but the survivor's are free; gives those back, and uses all.
fn use_permits(permits: &Handle<Permits>, taken: u32) {
    assert_eq!(permits.value(), COUNT - taken, "no permit is lost, none is doubled");
    for _ in 0..taken {
        assert!(permits.release(false).unwrap());
    }
    assert!(!permits.release(true).unwrap(), "all are free");
    for _ in 0..MANY / (2 * COUNT) {
        (0..COUNT).for_each(|_| assert!(permits.acquire(Deadline::Now).unwrap()));
        assert!(!permits.acquire(Deadline::Now).unwrap());
        (0..COUNT).for_each(|_| assert!(permits.release(false).unwrap()));
    }
}

fn add_permit_taker(owned: &mut Owned) {
    let permits = &owned.permits;
    // It dies with it.
    let taker = Other::asleep(|| u8::from(!permits.acquire(soon()).unwrap()));
    owned.others.push(taker);
}

fn permit_takers_end(owned: &mut Owned) {
    for taker in owned.others.drain(..) {
        assert_eq!(taker.end(owned.arena), 0, "it got its permit");
    }
}

#[test]
fn the_permit_of_a_dead_process_is_free() {
    Operation::new(
        "acquire a permit",
        |arena| owned(arena, 1),
        |owned| assert!(owned.permits.acquire(soon()).unwrap()),
        |owned| {
            use_permits(&owned.permits, 1);
            Outcome::Done
        },
    )
    .warm_up(|owned| {
        owned.permits.acquire(soon()).unwrap();
        owned.permits.release(false).unwrap();
    })
    .in_any_order()
    .kill_everywhere();
}

#[test]
fn a_permit_that_is_given_back_goes_to_who_sleeps() {
    Operation::new(
        "release a permit, with a sleeper",
        |arena| owned(arena, COUNT - 1),
        |owned| assert!(owned.permits.release(false).unwrap()),
        |mut owned| {
            permit_takers_end(&mut owned);
            use_permits(&owned.permits, COUNT - 1);
            Outcome::Done
        },
    )
    .prepare(|owned| assert!(owned.permits.acquire(soon()).unwrap()))
    .ready(add_permit_taker)
    .in_any_order()
    .kill_everywhere();
}

#[test]
fn a_permit_that_is_given_back_for_another_is_free_once() {
    Operation::new(
        "release another's permit, with a sleeper",
        |arena| owned(arena, COUNT),
        |owned| assert!(owned.permits.release(true).unwrap()),
        |mut owned| {
            // The sleeper has it, or had it and died: nothing of what follows depends on which.
            let left = (0..COUNT).take_while(|_| owned.permits.release(false).unwrap()).count() as u32;
            permit_takers_end(&mut owned);
            assert!(left >= COUNT - 1);
            use_permits(&owned.permits, 0);
            done_if(left < COUNT)
        },
    )
    .warm_up(|owned| _ = owned.permits.acquire(Deadline::Now).unwrap())
    .ready(add_permit_taker)
    .kill_everywhere();
}

fn waits_for_permit() -> Operation<Owned> {
    Operation::new(
        "acquire a permit, after a wait",
        |arena| owned(arena, COUNT),
        |owned| assert!(owned.permits.acquire(soon()).unwrap()),
        |mut owned| {
            let others = owned.others.len() as u32;
            permit_takers_end(&mut owned);
            use_permits(&owned.permits, COUNT - 1 - others);
            Outcome::Done
        },
    )
    .warm_up(|owned| _ = owned.permits.acquire(Deadline::Now).unwrap())
    .waits_for(|owned| {
        // One for each.
        (0..=owned.others.len()).for_each(|_| assert!(owned.permits.release(false).unwrap()));
        true
    })
    .in_any_order()
}

#[test]
fn who_waits_for_a_permit_and_dies_leaves_it_to_others() {
    waits_for_permit().ready(add_permit_taker).kill_everywhere();
}

#[test]
fn who_is_about_to_wait_for_a_permit_does_not_sleep_through_its_release() {
    waits_for_permit().stop_everywhere();
}

#[test]
fn who_is_about_to_wait_for_a_permit_does_not_sleep_through_its_owners_death() {
    static SPOT: Spot = Spot::new();
    // Its owner dies between the store that frees it and the wake.
    waits_for_permit()
        .ready(|owned| {
            let permits = &owned.permits;
            permits.release(false).unwrap();
            owned.dying = Some(Traced::start(|| {
                assert!(permits.acquire(Deadline::Now).unwrap());
                marker();
                permits.release(false).unwrap();
                marker();
            }));
        })
        .waits_for(|owned| {
            let dying = owned.dying.take().unwrap();
            dying.run_until(&SPOT, || owned.permits.value() == 1);
            bury(owned.arena, dying);
            true
        })
        .stop_everywhere();
}

#[test]
fn a_permit_is_free_though_its_owner_had_let_go_of_its_handle_before_it_died() {
    stay_on_one_cpu();
    let owned = owned(Arena::create(1).unwrap(), 0);
    let hold = owned.permits.held().send().unwrap();
    let owner = Other::start(|| {
        let held = owned.arena.receive(owned.permits.held().name(), hold).unwrap();
        let own = Handle::<Permits>::from_held(held).unwrap();
        assert!(own.acquire(Deadline::Now).unwrap());
        0
    });
    owner.end(owned.arena);
    assert!((0..COUNT).all(|_| owned.permits.acquire(soon()).unwrap()));
    use_permits(&owned.permits, COUNT);
}
