//! Figures of broody beside those of its peers and of the bare kernel, taken in the same run and in turns.
//!
//! Times drift with the machine's load; ratios within a run do so much less. Prints Markdown.

mod bare;
mod ends;
mod gate;
mod large;
mod locks;
mod measure;
mod policies;
mod queues;
mod starts;
mod tasks;

use measure::Table;

fn main() {
    broody::init();
    procspawn::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, method] = &arguments[..] {
        assert_eq!(role, "family");
        return ends::family(method);
    }
    let only = arguments.first().map(String::as_str);
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    println!("# Benchmarks\n");
    println!(
        "`make bench` writes this file. All figures are of one run on this machine:\n\n{}\n",
        measure::machine()
    );
    println!(
        "A *target* is what the project has promised itself. Times are in microseconds unless said otherwise.\n"
    );
    let mut table = Table::default();
    if wanted("starts") {
        starts::run(&mut table);
    }
    if wanted("ends") {
        ends::run(&mut table);
    }
    if wanted("tasks") {
        tasks::run(&mut table);
    }
    if wanted("large") {
        large::run(&mut table);
    }
    if wanted("policies") {
        policies::run(&mut table);
    }
    if wanted("locks") {
        locks::run(&mut table);
    }
    if wanted("queues") {
        queues::run(&mut table);
    }
    table.print();
    println!("\nWhat bounds `start + join`: [decision 003](decisions/003-spare-children.md).");
}
