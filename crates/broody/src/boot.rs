//! How a program becomes a supervisor or a child: the first line of main, or before it.
//!
//! The host execs its own binary with [`VARIABLE`] in the environment. A program whose main begins with [`init`] turns there into
//! what the variable says. A test binary's main is the test harness's: there a constructor, which the loader runs before main,
//! does the same. The variable is taken out of the environment as soon as it is read, so that nobody inherits it; where it is
//! still there when a process is to be started, main did not pass through `init`, and the start is refused: no fork bomb.

#![allow(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use broody_os::{environment, image};

use crate::supervisor::{child, server};
use crate::{Error, Result};

/// Tells an exec'ed program what it is.
pub(crate) const VARIABLE: &str = "BROODY_BOOT";

/// The variable's value in a process of a [runtime](crate::embed).
pub(crate) const TEMPLATE: &str = "template:runtime";
pub(crate) const EMBEDDED_CHILD: &str = "child:runtime";

/// Relaxed throughout: it guards no other memory.
static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// What a program was exec'ed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Supervisor,
    Child,
}

impl Role {
    /// The variable's value for this program: the role, and where it turns into it.
    pub(crate) fn token(self) -> String {
        self.token_at(if under_test_harness() { "before-main" } else { "init" })
    }

    /// The value for a program whose main begins with [`init`], whatever this one is.
    pub(crate) fn token_of_program(self) -> String {
        self.token_at("init")
    }

    fn token_at(self, place: &str) -> String {
        match self {
            Role::Supervisor => format!("supervisor:{place}"),
            Role::Child => format!("child:{place}"),
        }
    }

    fn parse(token: &str, place: &str) -> Option<Self> {
        match token.split_once(':')? {
            ("supervisor", at) if at == place => Some(Role::Supervisor),
            ("child", at) if at == place => Some(Role::Child),
            _ => None,
        }
    }
}

/// Makes this program able to start processes. The first line of main.
///
/// A child of the start methods forkserver and spawn, and the program's supervisor, are this same program: they turn into what
/// they are here, and never return from it. In the program that the user started it returns at once; calling it again does
/// nothing. Test functions need no call: a test binary's processes begin before its main.
///
/// ```
/// fn square(number: u64) -> u64 {
///     number * number
/// }
///
/// fn main() -> broody::Result<()> {
///     broody::init();
///     assert_eq!(broody::spawn(square, 7)?.join()?, 49);
///     Ok(())
/// }
/// ```
pub fn init() {
    if !INITIALIZED.swap(true, Ordering::Relaxed) {
        turn_into("init");
    }
}

/// What `place` is for: becoming a supervisor or a child, if this process is to be one.
fn turn_into(place: &str) {
    // Looked at without taking it: it may be meant for the other place.
    let Some(token) = std::env::var_os(VARIABLE) else { return };
    let Some(role) = token.to_str().and_then(|token| Role::parse(token, place)) else { return };
    // SAFETY: this is the first line of main, or before it. (Were there a second thread, the supervisor would say so in its
    // welcome, and the start would fail.)
    unsafe { environment::take_variable(VARIABLE) };
    INITIALIZED.store(true, Ordering::Relaxed);
    crate::context::prepare();
    match role {
        Role::Supervisor => server::run(),
        Role::Child => broody_os::fork::exit_now(child::resume()),
    }
}

/// A runtime takes the place of [`init`].
pub(crate) fn set_initialized() {
    INITIALIZED.store(true, Ordering::Relaxed);
}

/// Runs before main. In almost every process it looks at one environment variable and returns.
extern "C" fn before_main() {
    turn_into("before-main");
}

#[used]
// SAFETY: an entry of .init_array is a function without arguments that the loader calls once; libc and std's environment are
// ready by then.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Whether this process may start others, and if not, why.
pub(crate) fn check() -> Result<()> {
    if std::env::var_os(VARIABLE).is_some() {
        return Err(Error::StartedWithoutInit);
    }
    if INITIALIZED.load(Ordering::Relaxed) || under_test_harness() {
        Ok(())
    } else {
        Err(Error::NotInitialized)
    }
}

/// Whether main is a test harness's: cargo puts test binaries into a folder `deps`, with a hash at the end of their names.
fn under_test_harness() -> bool {
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| std::env::current_exe().is_ok_and(|path| is_test_binary(&path)))
}

fn is_test_binary(path: &Path) -> bool {
    let in_deps = path.parent().and_then(Path::file_name).is_some_and(|folder| folder == "deps");
    let hash = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once('-'));
    in_deps
        && hash.is_some_and(|(_, hash)| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

static EXECUTABLE: RwLock<Option<PathBuf>> = RwLock::new(None);

/// Names the program to exec for the supervisor, where it is not the running one's own file.
///
/// For a program that is loaded in an unusual way, such as by an explicit dynamic loader. It must be the same build, since
/// functions are named by their place in it. Takes effect when the next supervisor starts.
pub fn set_executable(path: impl Into<PathBuf>) {
    *EXECUTABLE.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(path.into());
}

/// The program to exec.
pub(crate) fn executable() -> PathBuf {
    let set = EXECUTABLE.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    set.clone().unwrap_or_else(image::executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_told_by_cargos_name_for_them() {
        assert!(is_test_binary(Path::new("/x/target/debug/deps/faults-0123456789abcdef")));
        assert!(!is_test_binary(Path::new("/x/target/debug/wordfreq")));
        assert!(!is_test_binary(Path::new("/x/target/debug/examples/wordfreq-0123456789abcdef")));
        assert!(!is_test_binary(Path::new("/x/deps/my-program")));
        assert!(under_test_harness());
    }

    #[test]
    fn a_token_is_for_one_place() {
        let token = Role::Child.token();
        assert_eq!(Role::parse(&token, "before-main"), Some(Role::Child));
        assert_eq!(Role::parse(&token, "init"), None);
        assert_eq!(Role::parse("nonsense", "init"), None);
    }
}
