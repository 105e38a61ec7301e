//! Memory that is full, in each way in which it can be: an error, and everything goes on. Each scenario says `skipped` where this machine does not let it
//! be made.

use broody::{Blob, BytesQueue, Error, Lock, Pool, SharedMemory};

use crate::limits::set_limit;

const MEBIBYTE: usize = 1 << 20;

/// Puts until there is no room, takes everything, and puts again. `long` is a message that lies apart from the queue: it is put until
/// there is no room for it either.
fn fill_and_empty(long: &[u8]) {
    let queue = BytesQueue::new().unwrap();
    // Short enough to lie in the queue itself.
    let message = vec![7; 32 << 10];
    let mut put = 0;
    let error = loop {
        match queue.put(&message, None) {
            Ok(()) => put += 1,
            Err(error) => break error,
        }
        assert!(put < 100_000, "there was no limit");
    };
    assert!(matches!(error, Error::Memory(_)), "{error}");
    assert_eq!(queue.len(), put, "what was acknowledged is there");
    // What would be in one piece, too.
    let error = loop {
        match queue.put(long, None) {
            Ok(()) => put += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Memory(_)), "{error}");
    let error = SharedMemory::new(1 << 40).unwrap_err();
    assert!(matches!(error, Error::Memory(_)), "{error}");
    for _ in 0..put {
        assert!(queue.get(None).unwrap().iter().all(|byte| *byte == 7));
    }
    assert!(queue.is_empty());
    drop(queue);
    let queue = BytesQueue::new().unwrap();
    queue.put(&message, None).unwrap();
    assert_eq!(queue.get(None).unwrap().len(), message.len());
    assert!(Blob::new(&message).is_ok());
    println!("done after {put}");
}

/// RLIMIT_AS: there is no room to map anything.
pub fn address_space() {
    // Before the limit: the tables and the first windows.
    let lock = Lock::new(1u8).unwrap();
    let long = vec![7; 200 * MEBIBYTE];
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    set_limit(libc::RLIMIT_AS, pages * 4096 + 300 * MEBIBYTE as u64);
    // Mapped while it is copied, and by who takes it; what lies in the queue takes memory and no addresses.
    fill_and_empty(&long);
    assert_eq!(*lock.lock().unwrap(), 1);
}

/// RLIMIT_FSIZE: there is none at all. Processes start all the same.
pub fn file_size() {
    set_limit(libc::RLIMIT_FSIZE, 10 * MEBIBYTE as u64);
    let error = Lock::new(1u8).unwrap_err();
    assert!(error.to_string().contains("ulimit -f"), "{error}");
    assert_eq!(broody::spawn(|x: u32| x + 1, 1).unwrap().join().unwrap(), 2);
    println!("done");
}

/// A pool's long arguments and results where shared memory has no place for them: so much the file may grow.
pub fn pool() {
    set_limit(libc::RLIMIT_FSIZE, 500 * MEBIBYTE as u64);
    let pool = Pool::builder().workers(1).build().unwrap();
    let (length_of, make) = (|bytes: Vec<u8>| bytes.len(), |length: usize| vec![7u8; length]);
    let long = MEBIBYTE + 1;
    assert_eq!(pool.apply(length_of, vec![7; long]).unwrap(), long);
    let pids = pool.worker_pids();
    let mut blobs = Vec::new();
    let error = loop {
        match Blob::new(&vec![1; long]) {
            Ok(blob) => blobs.push(blob),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Memory(_)), "{error}");
    let results = pool.try_map(length_of, [10, long, 10].map(|length| vec![7; length])).unwrap();
    assert!(matches!(&results[..], [Ok(10), Err(Error::TaskNotSent { .. }), Ok(10)]), "{results:?}");
    let results = pool.try_map(make, [10, long, 10]).unwrap();
    assert!(matches!(&results[..], [Ok(_), Err(Error::Encode { .. }), Ok(_)]));
    drop(blobs);
    assert_eq!(pool.apply(length_of, vec![7; long]).unwrap(), long);
    assert_eq!(pool.apply(make, long).unwrap().len(), long);
    assert_eq!(pool.worker_pids(), pids, "nobody died of it");
    println!("done");
}

/// A cgroup of 200 MiB, of version 1 or 2.
pub fn cgroup() {
    let name = format!("broody-test-{}", std::process::id());
    let candidates = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
    let made = candidates.iter().find_map(|(root, limit)| {
        let folder = format!("{root}/{name}");
        std::fs::create_dir(&folder).ok()?;
        let set = std::fs::write(format!("{folder}/{limit}"), (200 * MEBIBYTE).to_string())
            .and_then(|()| std::fs::write(format!("{folder}/cgroup.procs"), "0"));
        match set {
            Ok(()) => Some((root, folder)),
            Err(_) => {
                let _ = std::fs::remove_dir(&folder);
                None
            }
        }
    });
    let Some((root, folder)) = made else {
        println!("skipped");
        return;
    };
    // Away from it again, whatever comes: a group with a member cannot be removed.
    struct Leave(String, String);
    impl Drop for Leave {
        fn drop(&mut self) {
            let _ = std::fs::write(format!("{}/cgroup.procs", self.0), "0");
            let _ = std::fs::remove_dir(&self.1);
        }
    }
    let _leave = Leave((*root).to_owned(), folder);
    fill_and_empty(&vec![7; 8 * MEBIBYTE]);
}

/// A /dev/shm of one mebibyte.
pub fn small_tmpfs() {
    // SAFETY: plain calls with constant strings.
    let made = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(
                c"tmpfs".as_ptr(),
                c"/dev/shm".as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                c"size=1m".as_ptr().cast(),
            ) == 0
    };
    if !made {
        println!("skipped");
        return;
    }
    let error = SharedMemory::create("broody-too-long", 2 * MEBIBYTE).unwrap_err();
    assert!(matches!(&error, Error::Os(os) if os.errno() == Some(libc::ENOSPC)), "{error}");
    let memory = SharedMemory::create("broody-fits", MEBIBYTE / 2).unwrap();
    memory.write(MEBIBYTE / 2 - 1, b"x").unwrap();
    // Anonymous memory has nothing to do with /dev/shm.
    assert!(SharedMemory::new(4 * MEBIBYTE).is_ok());
    drop(memory);
    assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0);
    println!("done");
}
