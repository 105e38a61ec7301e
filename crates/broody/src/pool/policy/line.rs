//! A line of jobs, in which those that were begun can be told from the others.

use std::collections::VecDeque;

use super::{Among, Job};

/// Two queues with numbered places: the lower number of the two heads is the head of the line.
#[derive(Debug, Default)]
pub(super) struct Line {
    fresh: VecDeque<(i64, Job)>,
    begun: VecDeque<(i64, Job)>,
    /// The lowest place so far, or lower.
    front: i64,
    /// Above the highest place so far.
    back: i64,
}

impl Line {
    pub(super) fn push_back(&mut self, job: Job) {
        let place = self.back;
        // The last one of the line, of whichever kind.
        let last = self.fresh.back_mut().filter(|(before, _)| before + 1 == place);
        if last.is_some_and(|(_, before)| before.join(&job)) {
            return;
        }
        self.back += 1;
        self.queue(job.begun).push_back((place, job));
    }

    pub(super) fn push_front(&mut self, job: Job) {
        self.front -= 1;
        let place = self.front;
        self.queue(job.begun).push_front((place, job));
    }

    pub(super) fn pop(&mut self, among: Among) -> Option<Job> {
        let begun = match (among, self.fresh.front(), self.begun.front()) {
            (Among::Begun, ..) | (_, None, _) => true,
            (_, Some(_), None) => false,
            (_, Some(fresh), Some(begun)) => begun.0 < fresh.0,
        };
        Some(self.queue(begun).pop_front()?.1)
    }

    pub(super) fn retain(&mut self, keep: &mut dyn FnMut(&mut Job) -> bool) {
        for queue in [&mut self.fresh, &mut self.begun] {
            queue.retain_mut(|(_, job)| keep(job) && job.tasks > 0);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.begun.is_empty()
    }

    fn queue(&mut self, begun: bool) -> &mut VecDeque<(i64, Job)> {
        if begun { &mut self.begun } else { &mut self.fresh }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: u64, begun: bool) -> Job {
        Job { begun, ..Job::new(id, 0, 1) }
    }

    #[test]
    fn equal_ones_that_follow_each_other_are_one() {
        let mut line = Line::default();
        (0..4).for_each(|id| line.push_back(job(id, false)));
        line.push_back(job(9, true));
        // Before the one that was begun is no place any more.
        line.push_back(job(4, false));
        line.push_back(Job { function: 7, ..job(5, false) });
        line.push_back(job(8, false));
        let all = std::iter::from_fn(|| line.pop(Among::All));
        let all: Vec<_> = all.map(|job| (job.id, job.tasks)).collect();
        assert_eq!(all, [(0, 4), (9, 1), (4, 1), (5, 1), (8, 1)]);
    }

    #[test]
    fn begun_and_fresh_ones_stand_in_one_line() {
        let mut line = Line::default();
        (1..5).for_each(|id| line.push_back(job(id, id % 2 == 0)));
        line.push_front(job(0, true));
        line.push_front(job(9, false));
        let mut pop = |among| line.pop(among).map(|job| job.id);
        assert_eq!(pop(Among::Begun), Some(0));
        assert_eq!(pop(Among::All), Some(9));
        assert_eq!(pop(Among::Begun), Some(2));
        assert_eq!([pop(Among::All), pop(Among::All), pop(Among::Begun)], [Some(1), Some(3), Some(4)]);
        assert_eq!([pop(Among::All), pop(Among::Begun)], [None, None]);
        assert!(line.is_empty());
    }
}
