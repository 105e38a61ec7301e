//! Values, arrays and bytes that several threads and processes use at once, with the lock and without.

use std::time::Duration;

use broody::{Array, Error, Lock, LockError, Queue, SharedMemory, Value};

#[test]
fn a_number_is_used_with_and_without_the_lock_at_once() {
    const EACH: u64 = 20_000;
    let (value, array) = (Value::new(0u64).unwrap(), Array::<u32>::zeroed(3).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..EACH {
                value.fetch_add(1);
                array.fetch_add(1, 1).unwrap();
            }
        });
        scope.spawn(|| {
            let mut last = 0;
            for _ in 0..100 {
                let (guard, items) = (value.lock().unwrap(), array.lock().unwrap());
                let now = guard.get();
                assert!(now >= last && items.get(1).unwrap() <= EACH as u32);
                assert_eq!((items.get(0).unwrap(), items.iter().last().unwrap()), (0, 0));
                last = now;
            }
        });
    });
    assert_eq!((value.get().unwrap(), array.lock().unwrap().to_vec()), (EACH, vec![0, EACH as u32, 0]));
}

#[test]
fn a_value_cannot_be_taken_for_a_lock() {
    /// Encoded as the value that it is, decoded as a lock, whose guard gives a reference that excludes others.
    #[derive(serde::Serialize, serde::Deserialize)]
    enum Disguised {
        #[serde(skip_deserializing)]
        Value(Value<u64>),
        #[serde(skip_serializing)]
        Lock(Lock<u64>),
    }
    let queue = Queue::<Disguised>::new().unwrap();
    queue.put(Disguised::Value(Value::new(1u64).unwrap())).unwrap();
    let is_held = |got| match got {
        Disguised::Value(value) => matches!(value.try_lock(), Err(LockError::TimedOut)),
        Disguised::Lock(lock) => lock.is_locked(),
    };
    let error = queue.get().map(is_held).unwrap_err();
    assert!(error.to_string().contains("of this type"), "{error}");
}

#[test]
fn a_guard_of_an_array_reads_and_changes_items_of_any_type() {
    let array = Array::new(&[[1.0f64, 2.0], [3.0, 4.0], [5.0, 6.0]]).unwrap();
    let mut guard = array.lock().unwrap();
    guard.update(|index, item| item[0] += index as f64);
    guard.copy_from(2, &[[0.5; 2]]).unwrap();
    assert!(matches!(guard.copy_from(2, &[[0.0; 2]; 2]), Err(Error::Invalid { .. })));
    assert!(guard.copy_from(usize::MAX, &[]).is_err() && guard.copy_from(3, &[]).is_ok());
    assert_eq!(guard.iter().rev().collect::<Vec<_>>(), [[0.5; 2], [4.0, 4.0], [1.0, 2.0]]);
    assert_eq!(format!("{guard:?}"), "[[1.0, 2.0], [4.0, 4.0], [0.5, 0.5]]");
    guard.fill([7.0; 2]);
    assert!(guard.get(3).is_err() && guard.set(3, [0.0; 2]).is_err());
    assert!(matches!(array.try_lock(), Err(LockError::TimedOut)));
    drop(guard);
    assert_eq!(array.get(2).unwrap(), [7.0; 2]);
    let empty = Array::<u64>::zeroed(0).unwrap();
    assert!(empty.lock().unwrap().to_vec().is_empty() && empty.is_empty());
}

#[test]
fn a_value_is_changed_under_its_lock() {
    let value = Value::new([1u16, 2, 3]).unwrap();
    let mut guard = value.lock().unwrap();
    assert_eq!(guard.update(|value| std::mem::replace(&mut value[1], 9)), 2);
    assert_eq!((guard.get(), format!("{guard:?}")), ([1, 9, 3], "[1, 9, 3]".to_owned()));
    assert!(matches!(value.lock_timeout(Duration::ZERO), Err(LockError::TimedOut)));
    guard.set([0; 3]);
    drop(guard);
    assert_eq!(value.update(|value| value[0]).unwrap(), 0);
}

#[test]
fn bytes_that_share_a_word_are_written_by_several_processes() {
    const ROUNDS: u8 = 200;
    let memory = SharedMemory::new(13).unwrap();
    fn write((memory, place): (SharedMemory, usize)) {
        for round in 1..=ROUNDS {
            memory.write(place, &[round; 3]).unwrap();
            let mut got = [0; 3];
            memory.read(place, &mut got).unwrap();
            assert_eq!(got, [round; 3]);
        }
    }
    let children: Vec<_> =
        [2, 5, 8].map(|place| broody::spawn(write, (memory.clone(), place)).unwrap()).into();
    children.into_iter().for_each(|child| child.join().unwrap());
    let mut all = [1; 13];
    memory.read(0, &mut all).unwrap();
    assert_eq!(all, [0, 0, 200, 200, 200, 200, 200, 200, 200, 200, 200, 0, 0]);
    assert!(memory.read(13, &mut []).is_ok() && memory.write(14, &[]).is_err());
    assert!(SharedMemory::new(0).unwrap().write(0, &[]).is_ok());
}

#[test]
fn numbers_are_changed_in_one_step_without_the_lock() {
    let (value, array) = (Value::new(12i32).unwrap(), Array::new(&[12i32; 2]).unwrap());
    let _held = (value.lock().unwrap(), array.lock().unwrap());
    macro_rules! check {
        ($($method:ident($argument:expr) => $result:expr),*) => {
            $(
                let before = value.load();
                assert_eq!((value.$method($argument), value.load()), (before, $result));
                assert_eq!(array.$method(1, $argument).unwrap(), before);
                assert_eq!((array.load(0).unwrap(), array.load(1).unwrap()), (12, $result));
                assert!(array.$method(2, $argument).is_err());
            )*
        };
    }
    check!(
        fetch_add(3) => 15, fetch_sub(5) => 10, fetch_and(6) => 2, fetch_or(5) => 7, fetch_xor(1) => 6,
        fetch_min(-4) => -4, fetch_max(9) => 9, swap(i32::MIN) => i32::MIN, fetch_sub(1) => i32::MAX
    );
    assert_eq!(
        (value.compare_exchange(0, 1), value.compare_exchange(i32::MAX, 1)),
        (Err(i32::MAX), Ok(i32::MAX))
    );
    assert_eq!(array.compare_exchange(0, 12, 1).unwrap(), Ok(12));
    assert_eq!(array.compare_exchange(0, 12, 1).unwrap(), Err(1));
    assert!(array.compare_exchange(2, 0, 0).is_err());
}
