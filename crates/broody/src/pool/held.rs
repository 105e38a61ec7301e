//! Runs of tasks, by the number of their first task.
//!
//! Tasks that are handed in one by one get numbers that follow each other. Those are kept in rows, at eight bytes each; an entry in a map
//! would take seven times as much.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::{Batch, Run};

/// The longest row: what is left of one stays until all of it is gone.
const ROW: usize = 64;

/// Runs, none of which overlaps another.
#[derive(Default)]
pub(super) struct Held(BTreeMap<u64, Entry>);

enum Entry {
    Run(Run),
    Row(Row),
}

/// Batches of a single task each, with numbers that follow each other.
#[derive(Default)]
struct Row {
    batches: Vec<Option<Arc<Batch>>>,
    /// How many are still there.
    left: usize,
}

impl Row {
    fn push(&mut self, batch: Arc<Batch>) {
        self.batches.push(Some(batch));
        self.left += 1;
    }
}

impl Held {
    pub(super) fn insert(&mut self, run: Run) {
        let id = run.first();
        let Some(batch) = single(&run) else {
            self.0.insert(id, Entry::Run(run));
            return;
        };
        if let Some((first, entry)) = self.0.range_mut(..=id).next_back() {
            let at = (id - *first) as usize;
            match entry {
                Entry::Run(before) if at == 1 => {
                    if let Some(before) = single(before) {
                        let mut row = Row::default();
                        row.push(before);
                        row.push(batch);
                        *entry = Entry::Row(row);
                        return;
                    }
                }
                Entry::Row(row) if at == row.batches.len() && at < ROW => return row.push(batch),
                // It comes back.
                Entry::Row(row) if at < row.batches.len() => {
                    row.left += usize::from(row.batches[at].is_none());
                    row.batches[at] = Some(batch);
                    return;
                }
                _ => {}
            }
        }
        self.0.insert(id, Entry::Run(run));
    }

    /// The run whose first task has this number.
    pub(super) fn get(&self, id: u64) -> Option<&Arc<Batch>> {
        let (first, entry) = self.0.range(..=id).next_back()?;
        match entry {
            Entry::Run(run) => (*first == id).then_some(&run.batch),
            Entry::Row(row) => row.batches.get((id - first) as usize)?.as_ref(),
        }
    }

    /// Takes the run whose first task has this number.
    pub(super) fn remove(&mut self, id: u64) -> Option<Run> {
        let (first, entry) = self.0.range_mut(..=id).next_back()?;
        let first = *first;
        match entry {
            Entry::Run(_) if first != id => None,
            Entry::Run(_) => match self.0.remove(&first)? {
                Entry::Run(run) => Some(run),
                Entry::Row(_) => None,
            },
            Entry::Row(row) => {
                let batch = row.batches.get_mut((id - first) as usize)?.take()?;
                row.left -= 1;
                if row.left == 0 {
                    self.0.remove(&first);
                }
                Some(Run::one(batch, 0))
            }
        }
    }

    /// Takes all, oldest first.
    pub(super) fn take_all(&mut self) -> Vec<Run> {
        let mut runs = Vec::new();
        for entry in std::mem::take(&mut self.0).into_values() {
            match entry {
                Entry::Run(run) => runs.push(run),
                Entry::Row(row) => {
                    runs.extend(row.batches.into_iter().flatten().map(|batch| Run::one(batch, 0)))
                }
            }
        }
        runs
    }
}

/// The batch of a run that is all of it, and a single task.
fn single(run: &Run) -> Option<Arc<Batch>> {
    (run.range == (0..1) && run.batch.is_single()).then(|| run.batch.clone())
}

#[cfg(test)]
mod tests {
    use super::super::arguments::Many;
    use super::super::batch::Gathered;
    use super::super::gather::Gather;
    use super::super::kind::Kinds;
    use super::*;
    use crate::function::FunctionId;

    fn id<F: Fn(u64) -> u64 + Copy + 'static>(_: F) -> FunctionId {
        FunctionId::of::<F, u64, u64>()
    }

    /// So many tasks, the first of them with this number.
    fn run(task: u64, tasks: usize) -> Run {
        let mut arguments = Many::default();
        for at in 0..tasks {
            arguments.push(&at).unwrap();
        }
        let kind = Kinds::default().of(id(|x| x), "same", Arc::default());
        Run::whole(Gathered::new(kind, arguments.into(), Gather::new(tasks), task).batch().clone())
    }

    fn first(run: Option<Run>) -> Option<(u64, usize)> {
        run.map(|run| (run.first(), run.len()))
    }

    #[test]
    fn what_follows_is_kept_in_rows() {
        let mut held = Held::default();
        (0..200).for_each(|task| held.insert(run(task, 1)));
        held.insert(run(200, 3));
        held.insert(run(203, 1));
        assert_eq!(held.0.len(), 200usize.div_ceil(ROW) + 2);
        assert_eq!(held.get(199).map(|batch| batch.task(0)), Some(199));
        assert!(held.get(201).is_none() && held.get(204).is_none());
        // In whatever order they go, and if one comes back.
        let one = held.remove(70).unwrap();
        assert_eq!(first(held.remove(70)), None);
        held.insert(one);
        for task in (0..200).rev() {
            assert_eq!(first(held.remove(task)), Some((task, 1)));
        }
        assert_eq!(held.0.len(), 2);
        assert_eq!(first(held.remove(200)), Some((200, 3)));
        held.insert(run(204, 1));
        let all: Vec<_> = held.take_all().iter().map(Run::first).collect();
        assert_eq!(all, [203, 204]);
        assert!(held.0.is_empty());
    }

    #[test]
    fn a_part_of_a_batch_is_kept_by_itself() {
        let mut held = Held::default();
        let whole = run(5, 4);
        held.insert(Run::one(whole.batch.clone(), 1));
        held.insert(Run::one(whole.batch.clone(), 2));
        held.insert(run(9, 1));
        assert_eq!(held.0.len(), 3);
        assert_eq!(first(held.remove(6)), Some((6, 1)));
        assert_eq!(held.remove(7).map(|run| run.range), Some(2..3));
    }
}
