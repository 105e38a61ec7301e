//! Any bytes as a message in a queue's ring: within its bounds, or refused.

#![no_main]

use broody_shm::queue::frame::Incoming;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|ring: &[u8]| {
    if let Ok(message) = Incoming::parse(ring) {
        assert!(message.length() < ring.len() + 8);
        assert!(message.bytes().len() <= ring.len());
        let holds = message.holds().count();
        assert!(8 + holds * 8 <= ring.len());
        let _ = message.blob();
    }
});
