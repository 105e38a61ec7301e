//! The supervisor of a program that is not Rust. See `broody::embed`.

fn main() {
    // Does not return in a supervisor.
    broody::init();
    eprintln!("broody-supervisor is started by programs that use broody, and is of no use by itself");
    std::process::exit(2);
}
