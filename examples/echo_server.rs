//! A TCP server on loopback that hands every connection to a child process of its own, and leaves none behind.
//!
//! The child is a fork, which has the connection's socket by being a copy of the server. The clients are in another process.
//!
//! ```sh
//! cargo run --release --example echo_server -- --connections 1000
//! ```

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use broody_examples::Census;
use broody_os::{fork, proc};
use clap::Parser;

/// Serves connections, each in a process of its own.
#[derive(Parser)]
struct Options {
    /// How many connections there are to be.
    #[arg(long, default_value_t = 1000)]
    connections: u32,
}

/// Gives back each line in capital letters, until the client has no more.
fn serve(stream: TcpStream) -> std::io::Result<u64> {
    let mut answers = stream.try_clone()?;
    let mut lines = 0;
    for line in BufReader::new(stream).lines() {
        writeln!(answers, "{}", line?.to_uppercase())?;
        lines += 1;
    }
    Ok(lines)
}

/// Connects, says something and checks the answer, one time after the other. Gives the number of right answers.
fn clients((port, connections): (u16, u32)) -> u32 {
    let ask = |number: u32| -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        writeln!(stream, "hello {number}")?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok(answer == format!("HELLO {number}\n"))
    };
    (0..connections).filter(|number| ask(*number).unwrap_or(false)).count() as u32
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    broody::init();
    let Options { connections } = Options::parse();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let clients = broody::spawn(clients, (listener.local_addr()?.port(), connections))?;
    let descriptors = proc::descriptors(fork::pid())?.len();
    let start = Instant::now();
    for _ in 0..connections {
        let (stream, _) = listener.accept()?;
        // The handle is dropped: whoever ends is reaped all the same.
        drop(broody::fork(move || serve(stream).map_err(|error| error.to_string()))?);
    }
    let right = clients.join()?;
    let seconds = start.elapsed().as_secs_f64();

    // The last child may just be ending, and its descriptors be closed a moment after that.
    let end = Instant::now() + Duration::from_secs(10);
    let open = || proc::descriptors(fork::pid()).map_or(0, |open| open.len());
    while (Census::take().live > 0 || open() > descriptors) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!(
        "{connections} connections, each in a process of its own, in {seconds:.1} s: {right} answers were right"
    );
    println!("afterwards: {}", Census::take());
    println!("descriptors: {descriptors} before, {} after", open());
    Ok(())
}
