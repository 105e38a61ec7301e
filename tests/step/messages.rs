//! Long messages: blobs whose pages are used again, and their way from a worker to its host and back.

use std::cell::RefCell;
use std::sync::Arc;

use broody_shm::arena::{Arena, Held, Transit};
use broody_shm::blob::{Blob, Draft};

use crate::operation::{Operation, Outcome};

const LENGTH: usize = 100_000;

/// Of holds that were given away.
const MARK: u64 = 77;

struct Stage {
    arena: &'static Arena,
    /// The survivor's: what is kept stays while it is there.
    keeper: Arc<Held>,
    /// The survivor's, which the victim opens.
    blob: Option<Blob>,
    /// Who gets what the victim gives.
    host: u32,
    /// The victim's.
    made: RefCell<Vec<Blob>>,
}

fn stage(arena: &'static Arena) -> Stage {
    let keeper = arena.keep_pages(1 << 20).unwrap();
    Stage { arena, keeper, blob: None, host: arena.my_bits().unwrap(), made: RefCell::default() }
}

fn message(arena: &'static Arena, length: usize) -> Blob {
    let mut draft = Draft::new(arena, length).unwrap();
    // Many at once, and few.
    draft.extend(&vec![7; length - 10]);
    draft.extend(&[7; 10]);
    draft.finish().0
}

fn make<const LENGTH: usize>(stage: &Stage) {
    stage.made.borrow_mut().push(message(stage.arena, LENGTH));
}

fn make_and_drop<const LENGTH: usize>(stage: &Stage) {
    drop(message(stage.arena, LENGTH));
}

fn check(mut stage: Stage) -> Outcome {
    let arena = stage.arena;
    arena.end_marked(MARK);
    assert_eq!(arena.objects(), 1 + u32::from(stage.blob.is_some()), "what the dead one had is gone");
    if let Some(blob) = stage.blob.take() {
        assert!(*blob == [7; LENGTH], "nobody has written to it");
    }
    // No two have the same place, and who wants zeros gets them.
    let messages = [70_000, LENGTH, 120_000, LENGTH].map(|length| message(arena, length));
    let empty = [70_000, LENGTH, 120_000].map(|length| Blob::new(arena, length, |_| {}).unwrap());
    assert!(messages.iter().all(|blob| blob.iter().all(|byte| *byte == 7)));
    assert!(empty.iter().all(|blob| blob.iter().all(|byte| *byte == 0)));
    drop((messages, empty));
    arena.give_kept_back();
    assert!(arena.allocated() < 4 << 20, "no pages are left: {} bytes", arena.allocated());
    drop(stage.keeper);
    Outcome::Done
}

#[test]
fn a_message_in_new_pages_goes_with_the_dead() {
    Operation::new("write a message into new pages", stage, make::<LENGTH>, check)
        .in_any_order()
        .kill_everywhere();
}

#[test]
fn a_message_in_pages_that_were_kept_goes_with_the_dead() {
    Operation::new("write a message into pages that were kept", stage, make::<LENGTH>, check)
        .prepare(make_and_drop::<LENGTH>)
        .in_any_order()
        .kill_everywhere();
}

#[test]
fn a_message_in_pages_some_of_which_were_kept_goes_with_the_dead() {
    Operation::new("write a message that is longer than what was kept", stage, make::<120_000>, check)
        .prepare(make_and_drop::<70_000>)
        .in_any_order()
        .kill_everywhere();
}

#[test]
fn pages_of_a_message_that_a_dead_process_drops_are_nobodys() {
    Operation::new("drop a message", stage, |stage| stage.made.borrow_mut().clear(), check)
        .prepare(make::<LENGTH>)
        .in_any_order()
        .kill_everywhere();
}

#[test]
fn pages_that_a_dead_process_gives_back_are_nobodys() {
    Operation::new("give back what is kept", stage, |stage| stage.arena.give_kept_back(), check)
        .prepare(make_and_drop::<LENGTH>)
        .in_any_order()
        .kill_everywhere();
}

#[test]
fn a_result_that_a_dead_worker_has_not_told_of_is_gone() {
    Operation::new(
        "give a result to the host",
        stage,
        |stage| {
            let mut objects = Transit::new(stage.arena);
            for blob in stage.made.take() {
                objects.push(blob.held().send().unwrap());
            }
            objects.give_to(stage.host, MARK);
        },
        check,
    )
    .prepare(|stage| (0..2).for_each(|_| make::<LENGTH>(stage)))
    .in_any_order()
    .kill_everywhere();
}

#[test]
fn an_argument_that_a_dead_worker_has_opened_is_its_batchs() {
    Operation::new(
        "open an argument",
        |arena| Stage { blob: Some(message(arena, LENGTH)), ..stage(arena) },
        |stage| {
            let name = stage.blob.as_ref().unwrap().held().name();
            let opened = Blob::from_held(stage.arena.open_object(name).unwrap()).unwrap();
            assert_eq!(opened[LENGTH - 1], 7);
            stage.made.borrow_mut().push(opened);
        },
        check,
    )
    .warm_up(make_and_drop::<LENGTH>)
    .in_any_order()
    .kill_everywhere();
}
