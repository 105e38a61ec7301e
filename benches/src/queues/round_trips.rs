//! How soon an answer comes.

use broody::Queue;

use super::Pair;
use crate::bare::{Busy, PingPong, pin, unpin};
use crate::measure::{Table, Times};

const ROUNDS: u32 = 5_000;
const BLOCK: u32 = 100;

fn answer((questions, answers): (Queue<Pair>, Queue<Pair>)) {
    for question in &questions {
        answers.put(question.unwrap()).unwrap();
    }
}

/// Where the two processes are.
#[derive(Clone, Copy)]
enum Place {
    OneCpu,
    OtherCpuBusy,
    BothFree,
}

struct Figures {
    ours: Times,
    bare: Times,
}

fn measure(place: Place) -> Figures {
    let (questions, answers) = (Queue::<Pair>::new().unwrap(), Queue::<Pair>::new().unwrap());
    let ball = PingPong::new();
    let theirs = broody::fork(|| ball.answer(ROUNDS)).unwrap();
    let ours = broody::spawn(answer, (questions.clone(), answers.clone())).unwrap();
    let busy = match place {
        Place::OneCpu => {
            [0, ours.pid(), theirs.pid()].into_iter().for_each(|pid| pin(pid, &[0]));
            None
        }
        Place::OtherCpuBusy => Some(Busy::on(1)),
        Place::BothFree => None,
    };
    let mut figures = Figures { ours: Times::default(), bare: Times::default() };
    for block in 0..ROUNDS / BLOCK {
        (1..=BLOCK).for_each(|turn| figures.bare.time(|| ball.go_round(block * BLOCK + turn)));
        for turn in 0..BLOCK {
            figures.ours.time(|| {
                questions.put((turn.into(), 0)).unwrap();
                answers.get().unwrap()
            });
        }
    }
    drop(busy);
    questions.close();
    ours.join().unwrap();
    theirs.join().unwrap();
    unpin(0);
    figures
}

pub fn run(table: &mut Table) {
    for (place, name, target) in [
        (Place::OneCpu, "both on one CPU", "at most 1.3 x bare"),
        (Place::OtherCpuBusy, "the other CPU busy", "at most 1.3 x bare"),
        (Place::BothFree, "both CPUs free", "under 2 us"),
    ] {
        let Figures { ours, bare } = measure(place);
        table.row(
            &format!("round trip by two queues, {name}, p50"),
            format!("{:.2} us, **{:.2} x bare**", ours.median(), ours.median() / bare.median()),
            format!(
                "bare futex ping-pong: {:.2} us; p99: {:.1} and {:.1} us",
                bare.median(),
                ours.percentile(99),
                bare.percentile(99)
            ),
            target,
        );
    }
}
