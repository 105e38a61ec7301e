//! What equal tasks have in common, kept once for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::options::Terms;
use crate::function::FunctionId;

/// How many kinds are remembered: those that are handed in by turns.
const REMEMBERED: usize = 8;

/// Which function, and what holds for its tasks.
pub(super) struct Kind {
    pub(super) function: FunctionId,
    pub(super) name: &'static str,
    pub(super) terms: Arc<Terms>,
}

/// The kinds of the latest tasks, the last one first.
#[derive(Default)]
pub(super) struct Kinds(VecDeque<Arc<Kind>>);

impl Kinds {
    /// The one kind of all tasks that have this in common.
    pub(super) fn of(&mut self, function: FunctionId, name: &'static str, terms: Arc<Terms>) -> Arc<Kind> {
        let is_it = |kind: &Arc<Kind>| {
            // Functions of equal code may be one in the binary.
            kind.function == function
                && kind.name == name
                && (Arc::ptr_eq(&kind.terms, &terms) || kind.terms == terms)
        };
        let kind = match self.0.iter().position(is_it) {
            Some(0) => return self.0[0].clone(),
            Some(at) => self.0.remove(at),
            None => None,
        };
        let kind = kind.unwrap_or_else(|| Arc::new(Kind { function, name, terms }));
        self.0.truncate(REMEMBERED - 1);
        self.0.push_front(kind.clone());
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id<F: Fn(u64) -> u64 + Copy + 'static>(_: F) -> FunctionId {
        FunctionId::of::<F, u64, u64>()
    }

    #[test]
    fn equal_tasks_have_one_kind() {
        let mut kinds = Kinds::default();
        let (one, two) = (id(|x: u64| x + 1), id(|x: u64| x + 2));
        let terms = |retries| Arc::new(Terms { retries, ..Terms::default() });
        let first = kinds.of(one, "one", terms(0));
        let other = kinds.of(two, "two", terms(0));
        assert!(Arc::ptr_eq(&first, &kinds.of(one, "one", terms(0))));
        assert!(Arc::ptr_eq(&other, &kinds.of(two, "two", terms(0))));
        assert!(!Arc::ptr_eq(&first, &kinds.of(one, "one", terms(1))));
        // No more are remembered than there is room for.
        (2..100).for_each(|retries| drop(kinds.of(one, "one", terms(retries))));
        assert_eq!(kinds.0.len(), REMEMBERED);
        assert!(!Arc::ptr_eq(&first, &kinds.of(one, "one", terms(0))));
    }
}
