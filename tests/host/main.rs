//! Programs that the tests kill, and scenarios that need a process of their own. Each checks itself.

mod family;
mod full;
mod hostile;
mod limits;
mod managers;
mod memory;
mod pools;
mod repeated;
mod supervisor;
mod wakes;
mod wrong;

fn main() {
    broody::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["family", method, ending] => family::live(broody_tests::method(method), ending),
        ["exit", method] => family::exit(broody_tests::method(method)),
        ["detached-with-family"] => family::detach_with_family(),
        ["child-detaches"] => family::child_detaches(),
        ["forked-below"] => family::forked_below(),
        ["busy-elsewhere", how] => hostile::is_busy_elsewhere(how),
        ["memory-limit"] => limits::of_memory(),
        ["detached", method] => family::detach(broody_tests::method(method)),
        ["supervisor-killed"] => supervisor::is_killed(),
        ["supervisor-killed-under-a-pool"] => supervisor::is_killed_under_a_pool(),
        ["supervisor-signalled"] => supervisor::shrugs_at_signals(),
        ["supervisor-stopped"] => supervisor::is_stopped(),
        ["sigchld", how, method] => hostile::sigchld(how, broody_tests::method(method)),
        ["waitpid", method] => hostile::waits_for_everything(broody_tests::method(method)),
        ["forks", method] => hostile::forks_by_itself(broody_tests::method(method)),
        ["thousand", method] => repeated::starts(broody_tests::method(method)),
        ["pools"] => repeated::pools(),
        ["workers-killed", retries, seed] => {
            pools::workers_are_killed(retries.parse().unwrap(), seed.parse().unwrap())
        }
        ["pool-at-exit"] => pools::is_left_to_the_exit(),
        ["pool-idle"] => pools::idles(),
        ["pool-busy"] => pools::is_busy(),
        ["process-limit"] => limits::of_processes(),
        ["descriptor-limit"] => limits::of_descriptors(),
        ["descriptor-limit-at-first"] => limits::of_descriptors_at_first(),
        ["without", call] => limits::without(call),
        ["full", "address-space"] => full::address_space(),
        ["full", "file-size"] => full::file_size(),
        ["full", "pool"] => full::pool(),
        ["full", "cgroup"] => full::cgroup(),
        ["full", "small-tmpfs"] => full::small_tmpfs(),
        ["manager"] => managers::serve(),
        ["manager-without-supervisor"] => managers::lose_the_supervisor(),
        ["manager-callers"] => managers::come_and_go(),
        ["memory", scenario] => memory::run(scenario),
        ["executable", which] => wrong::executable(which),
        _ => panic!("no such scenario: {arguments:?}"),
    }
}
