//! Programs with a manager.

use broody::{Error, Event, Hosted, Manager};
use broody_os::signals;
use broody_tests::{PATIENCE, tell_pids, wait_for_test};

fn block(_: &mut u32, (begun, for_ever): (Event, Event)) {
    begun.set().unwrap();
    for_ever.wait(None).unwrap();
}

/// A manager in the middle of a call, whose caller is a child.
fn start() -> (Manager, Hosted<u32>, broody::Child<()>) {
    let manager = Manager::start().unwrap();
    let value = manager.host(0u32).unwrap();
    let (begun, for_ever) = (Event::new().unwrap(), Event::new().unwrap());
    let child = broody::spawn(
        |(value, events): (Hosted<u32>, (Event, Event))| value.call(block, events).unwrap(),
        (value.clone(), (begun.clone(), for_ever)),
    );
    assert!(begun.wait(Some(PATIENCE)).unwrap());
    (manager, value, child.unwrap())
}

/// Tells the pids of the manager and of who calls it, and waits to be ended.
pub fn serve() {
    let (manager, _value, child) = start();
    tell_pids(&[manager.pid(), child.pid()]);
    wait_for_test();
}

/// The supervisor is killed, and the manager with it.
pub fn lose_the_supervisor() {
    let (_manager, value, child) = start();
    let supervisor = broody_tests::supervisor().unwrap();
    broody_os::fork::kill_child(supervisor, signals::SIGKILL).unwrap();
    let error = value.call(|_, ()| (), ()).unwrap_err();
    assert!(matches!(error, Error::ManagerLost { .. }), "{error}");
    assert!(child.join().is_err());
    // The next one is a new supervisor's.
    assert_eq!(Manager::start().unwrap().host(7u32).unwrap().call(|value, ()| *value, ()).unwrap(), 7);
}

/// So many values and callers that what one of them leaves would be seen.
pub fn come_and_go() {
    let manager = Manager::start().unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", manager.pid())).unwrap().count();
    let one_round = || {
        let values: Vec<_> = (0..50u32).map(|number| manager.host(number).unwrap()).collect();
        let child = broody::spawn(
            |values: Vec<Hosted<u32>>| -> () {
                values.iter().for_each(|value| value.call(|value, ()| *value += 1, ()).unwrap());
                std::process::abort();
            },
            values.clone(),
        );
        assert!(child.unwrap().join().is_err());
        assert_eq!(values[49].call(|value, ()| *value, ()).unwrap(), 50);
    };
    one_round();
    let before = descriptors();
    (0..5).for_each(|_| one_round());
    assert_eq!(descriptors(), before);
}
