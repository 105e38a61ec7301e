//! Programs that are put together wrongly.

use broody::Error;
use broody_os::{fork, image, proc};

fn add(x: u32) -> u32 {
    x + 1
}

/// The supervisor is to be another program.
pub fn executable(which: &str) {
    let copy = std::env::temp_dir().join(format!("broody-copy-{}", std::process::id()));
    match which {
        "other-build" => {
            // The same program, as if it had been built from other sources: with another build id.
            let mut bytes = std::fs::read("/proc/self/exe").unwrap();
            let id = image::build_id().0;
            if let Some(at) = bytes.windows(id.len()).position(|window| window == id) {
                bytes[at] ^= 0xff;
            }
            std::fs::write(&copy, bytes).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&copy, mode).unwrap();
            broody::set_executable(&copy);
        }
        path => broody::set_executable(path),
    }
    let error = broody::spawn(add, 1).unwrap_err();
    let _ = std::fs::remove_file(&copy);
    match (which, &error) {
        ("other-build", Error::OtherBuild { ours, theirs }) => assert_ne!(ours, theirs),
        ("other-build", other) => panic!("{other}"),
        (path, Error::SupervisorStart { executable, .. }) => assert_eq!(executable.to_str(), Some(path)),
        (_, other) => panic!("{other}"),
    }
    println!("{error}");
    assert!(proc::descendants(fork::pid()).is_empty(), "somebody is left");
    // It is not for ever.
    broody::set_executable("/proc/self/exe");
    assert_eq!(broody::spawn(add, 1).unwrap().join().unwrap(), 2);
}
