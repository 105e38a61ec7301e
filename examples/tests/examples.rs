//! The examples, run as a user would.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program that cargo has built beside this test.
fn example(name: &str) -> Command {
    let this = std::env::current_exe().unwrap();
    Command::new(this.parent().and_then(Path::parent).unwrap().join("examples").join(name))
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A tree of files whose words are known, removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("broody-examples-{}", std::process::id()));
        std::fs::create_dir_all(root.join("deep/deeper")).unwrap();
        for number in 0..40 {
            let words = "the quick brown fox jumps over the lazy dog\n".repeat(5000);
            std::fs::write(root.join(format!("deep/{number}.txt")), words).unwrap();
        }
        let packed = std::fs::File::create(root.join("deep/deeper/packed.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        packed.write_all("packed ".repeat(1234).as_bytes()).unwrap();
        packed.finish().unwrap();
        std::fs::write(root.join("binary"), b"the\0the").unwrap();
        std::fs::write(root.join("broken.gz"), b"this is no gz file").unwrap();
        Self(root)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn wordfreq_counts_every_word_also_when_a_worker_is_killed() {
    let tree = Tree::new();
    for arguments in [&["--workers", "2"][..], &["--workers", "3", "--kill-worker"]] {
        let said = text(&example("wordfreq").arg(&tree.0).args(arguments).output().unwrap());
        let count = |word: &str| -> u64 {
            let line = said.lines().find(|line| line.trim_start().starts_with(&format!("{word} "))).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        assert_eq!((count("the"), count("fox"), count("packed")), (400_000, 200_000, 1234));
        assert!(said.contains("2 files were skipped: 1 binary, 1 unreadable"), "{said}");
        assert!(said.lines().last().unwrap().starts_with("41 files, "), "{said}");
        assert!(said.contains("zombies 0, orphans 0"), "{said}");
        assert_eq!(
            said.contains("was killed half-way, and its task run again; the result is complete"),
            arguments.len() == 3
        );
    }
}

#[test]
fn wordfreq_refuses_what_is_no_directory() {
    let output = example("wordfreq").arg("/no/such/directory").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/directory"));
}

#[test]
fn zombies_stay_without_broody_and_are_gone_with_it() {
    let said = text(&example("zombies").args(["--step", "100"]).output().unwrap());
    let (with, without) = said.split_once("With std::process::Command:").unwrap();
    let counted = |part: &str| part.matches("zombies ").count();
    assert_eq!((counted(with), counted(without)), (7, 7));
    assert_eq!(with.matches("zombies 0, orphans 0, live children 0").count(), 7, "{said}");
    assert!(without.trim_end().ends_with("zombies 7, orphans 0, live children 0"), "{said}");
}

#[test]
fn the_echo_server_serves_a_thousand_connections_and_leaves_nobody() {
    let said = text(&example("echo_server").output().unwrap());
    assert!(said.contains("1000 answers were right"), "{said}");
    assert!(said.contains("zombies 0, orphans 0, live children 0"), "{said}");
    let last = said.lines().last().unwrap();
    let numbers: Vec<u32> = last.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[1] <= numbers[0], "{last}");
}
