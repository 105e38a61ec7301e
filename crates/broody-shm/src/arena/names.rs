//! Names of files that are the program's, and go with it.
//!
//! A file that one process has made, and another one will open after the first has gone, has no user in between. Its name is kept by an object with
//! a hold that is no process's, and that no death ends therefore: only who removes the name, or the end of the program.

use std::sync::Arc;

use super::Arena;
use super::held::{Body, Held};
use super::holds::IN_TRANSIT;
use super::layout::HOLD_TABLE;
use super::objects::{Kind, named};
use crate::ArenaError;
use crate::sync::{Deadline, Ordering};

/// In a hold: nobody's.
const NOBODY: u32 = 0;

/// In a named object: no file's.
const NO_FILE: u64 = 0;

impl Arena {
    /// From now on the name is removed at the end of the program, if it is that of the file with this number. The file may get its name after
    /// this.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn keep_name(&'static self, number: u64, name: &str) -> Result<(), ArenaError> {
        let held: Arc<Held> = self.allocate_named(number, name)?;
        let locked = self.lock_soon()?;
        let hold = locked.add_hold(held.name().index, 0)?;
        // Killed before this, it is the process's own, and goes with it.
        self.hold(hold.index).process.store(NOBODY, Ordering::Release);
        // The other hold is let go of under this lock.
        drop(locked);
        Ok(())
    }

    /// The name is not the program's any more; it stays.
    ///
    /// # Errors
    /// [`ArenaError`] when the arena's lock cannot be had.
    pub fn forget_name(&self, number: u64, name: &str) -> Result<(), ArenaError> {
        self.end_names(self.lock_soon()?, |its_number, its_name| its_number == number && its_name == name);
        Ok(())
    }

    /// The program is over: removes what it has kept. Nothing where the lock cannot be had.
    pub fn remove_names(&self, deadline: Deadline) {
        let Ok(locked) = self.lock(deadline) else { return };
        self.end_names(locked, |number, name| {
            broody_os::named::remove_file(name, number);
            true
        });
    }

    /// Ends those that `select` says.
    fn end_names(&self, locked: super::Locked<'_>, select: impl Fn(u64, &str) -> bool) {
        for index in 0..self.used(&HOLD_TABLE) {
            let hold = self.hold(index);
            let is_nobodys = hold.process.load(Ordering::Relaxed) == NOBODY
                && hold.queue.load(Ordering::Relaxed) == 0
                && hold.flags.load(Ordering::Relaxed) & IN_TRANSIT == 0;
            let object = hold.object.load(Ordering::Relaxed).checked_sub(1).filter(|_| is_nobodys);
            let Some(body) = object.and_then(|object| self.body_of(object, Kind::Named)) else { continue };
            if named(&body).is_some_and(|(number, name)| select(number, &name)) {
                disown(&body);
                locked.release_hold(index);
            }
        }
    }
}

/// The object may go without the file's name.
fn disown(body: &Body) {
    // SAFETY: within the body, see `named`, and aligned; under the arena's lock, which all have who look at it after it was made.
    unsafe { body.as_ptr().as_ptr().cast::<u64>().write(NO_FILE) }
}

#[cfg(test)]
mod tests {
    use broody_os::named::NamedFile;

    use super::*;

    #[test]
    fn a_name_is_kept_without_a_user_until_it_is_forgotten_or_the_program_ends() {
        let arena = Arena::create(1).unwrap();
        let name = |what: &str| format!("broody-names-{what}-{}", std::process::id());
        let make = |what: &str| {
            let file = NamedFile::create(1).unwrap();
            arena.keep_name(file.number(), &name(what)).unwrap();
            file.publish(&name(what)).unwrap();
            file.number()
        };
        let is_there = |what: &str| NamedFile::open(&name(what)).is_ok();
        let (first, _) = (make("first"), make("second"));
        assert!(is_there("first") && is_there("second"), "nobody uses them, and they are there");
        arena.forget_name(first + 1, &name("first")).unwrap();
        assert_eq!(arena.objects(), 2, "another file's");
        arena.forget_name(first, &name("first")).unwrap();
        assert!(is_there("first"), "who forgets does not remove");
        arena.remove_names(Deadline::Never);
        assert!(is_there("first") && !is_there("second"));
        assert_eq!(arena.objects(), 0);
        broody_os::named::remove(&name("first")).unwrap();
    }
}
