//! A program that does not make `broody::init()` the first line of its main: it forgets it, or starts a thread before.

fn main() {
    if std::env::args().nth(1).as_deref() == Some("late") {
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(100)));
        broody::init();
    }
    let Err(error) = broody::spawn(|x: u32| x, 1) else { panic!("it started") };
    println!("{error}");
    assert!(broody_os::proc::descendants(broody_os::fork::pid()).is_empty(), "somebody is left");
}
