//! The running binary: its identity, and addresses within it that mean the same in another process of the same binary.
//!
//! Two processes of one binary load it at different addresses, but everything in it keeps its distance from everything else.
//! A function is therefore named by its distance from one static; that name is good only in a process whose [`BuildId`] is
//! the same. See dl_iterate_phdr(3), elf(5).

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// What tells one build of a program from another: the linker's build id where there is one, else the file's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildId(pub Vec<u8>);

impl std::fmt::Display for BuildId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The point that distances are measured from.
static BASE: u8 = 0;

/// The distance of a code address from this binary's base.
pub fn distance(address: *const ()) -> isize {
    (address as isize).wrapping_sub(&raw const BASE as isize)
}

/// The address at `distance` from this binary's base.
pub fn address(distance: isize) -> *const () {
    (&raw const BASE).cast::<()>().wrapping_byte_offset(distance)
}

/// The file that the kernel runs, even if it has been replaced or deleted since; the path it had, where /proc is missing.
pub fn executable() -> PathBuf {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() { own } else { std::env::current_exe().unwrap_or(own) }
}

/// The identity of the binary that holds this very code (the program, or the shared library that broody is linked into).
pub fn build_id() -> BuildId {
    note().map_or_else(from_file, BuildId)
}

fn from_file() -> BuildId {
    let Ok(data) = std::fs::metadata(executable()) else { return BuildId(Vec::new()) };
    let numbers = [data.dev(), data.ino(), data.size(), data.mtime() as u64, data.mtime_nsec() as u64];
    BuildId(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
}

/// The NT_GNU_BUILD_ID note of the loaded object that [`BASE`] lies in.
fn note() -> Option<Vec<u8>> {
    let mut found: Option<Vec<u8>> = None;
    // SAFETY: the callback gets `found` back as its last argument, and runs only during this call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, found: *mut libc::c_void) -> i32 {
    // SAFETY: the loader passes a valid description of an object that is loaded now, and its program headers.
    let (start, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    let range = |header: &libc::Elf64_Phdr| {
        let first = start.wrapping_add(header.p_vaddr as usize);
        first..first.wrapping_add(header.p_memsz as usize)
    };
    let here = &raw const BASE as usize;
    if !headers.iter().any(|header| header.p_type == libc::PT_LOAD && range(header).contains(&here)) {
        return 0;
    }
    for header in headers.iter().filter(|header| header.p_type == libc::PT_NOTE) {
        let place = range(header);
        // SAFETY: a PT_NOTE segment of a loaded object is mapped and readable over its whole length.
        let bytes = unsafe { std::slice::from_raw_parts(place.start as *const u8, place.len()) };
        if let Some(id) = build_id_in_notes(bytes) {
            // SAFETY: `found` is the Option that `note` passed.
            unsafe { *found.cast::<Option<Vec<u8>>>() = Some(id.to_vec()) };
        }
    }
    1
}

/// Finds the GNU build id among ELF notes: name length, description length, type, name and description, each padded to 4.
fn build_id_in_notes(mut bytes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let (name, description, kind) = (word(bytes, 0)? as usize, word(bytes, 4)? as usize, word(bytes, 8)?);
        let start = 12 + name.next_multiple_of(4);
        let body = bytes.get(start..start.checked_add(description)?)?;
        if kind == NT_GNU_BUILD_ID && bytes.get(12..12 + name)? == b"GNU\0" {
            return Some(body);
        }
        bytes = bytes.get(start + description.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note_bytes(name: &[u8], kind: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, body.len() as u32, kind] {
            bytes.extend(word.to_ne_bytes());
        }
        for part in [name, body] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut notes = note_bytes(b"GNU\0", 1, &[1, 2, 3]);
        notes.extend(note_bytes(b"Xen\0", 3, &[9]));
        notes.extend(note_bytes(b"GNU\0", 3, &[7, 8]));
        assert_eq!(build_id_in_notes(&notes), Some(&[7u8, 8][..]));
        assert_eq!(build_id_in_notes(&notes[..notes.len() - 4]), None);
        assert_eq!(build_id_in_notes(&[0xff; 12]), None);
    }

    #[test]
    fn a_function_is_found_again_by_its_distance() {
        fn seven() -> u8 {
            7
        }
        let there = address(distance(seven as *const ()));
        assert_eq!(there, seven as *const ());
        assert!(!build_id().0.is_empty());
    }
}
