//! Runs every target over its corpus and over pseudo-random inputs: the fuzzer's smoke test, on a stable compiler.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use router_fuzz::TARGETS;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = here().join("corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

fn inputs() -> u64 {
    std::env::var("FUZZ_INPUTS").ok().and_then(|inputs| inputs.parse().ok()).unwrap_or(2000)
}

#[test]
fn every_target_has_a_corpus_and_an_entry_for_the_fuzzer() {
    let manifest = std::fs::read_to_string(here().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(corpus(name).len() >= 3, "fuzz/corpus/{name}: a few inputs to begin with");
        let entry = here().join(format!("fuzz_targets/{name}.rs"));
        let text =
            std::fs::read_to_string(&entry).unwrap_or_else(|error| panic!("{}: {error}", entry.display()));
        assert!(text.contains(&format!("router_fuzz::{name}::run")), "{} runs its target", entry.display());
        assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "fuzz/Cargo.toml builds {name}");
    }
    let entries = std::fs::read_dir(here().join("fuzz_targets")).unwrap().count();
    assert_eq!(entries, TARGETS.len(), "each file in fuzz_targets is a target");
}

#[test]
fn every_target_stands_its_corpus() {
    for (name, target) in TARGETS {
        for (file, data) in corpus(name) {
            let run = std::panic::catch_unwind(|| target(&data));
            assert!(run.is_ok(), "{name} fails on {}", file.display());
        }
    }
}

#[test]
fn every_target_stands_pseudo_random_inputs() {
    for (name, target) in TARGETS {
        let seeds = corpus(name);
        let mut rng = fastrand::Rng::with_seed(0x5EED);
        for _ in 0..inputs() {
            let data = input(&mut rng, &seeds);
            let run = std::panic::catch_unwind(|| target(&data));
            let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(run.is_ok(), "{name} fails; put these bytes into fuzz/corpus/{name}/: {hex}");
        }
    }
}

/// A corpus file with some bytes changed, two of them joined, or bytes out of nowhere.
fn input(rng: &mut fastrand::Rng, seeds: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    if rng.u8(..4) == 0 {
        let long = rng.usize(..400);
        return (0..long).map(|_| rng.u8(..)).collect();
    }
    let mut data = seeds[rng.usize(..seeds.len())].1.clone();
    if rng.bool() {
        let other = &seeds[rng.usize(..seeds.len())].1;
        let (keep, from) = (rng.usize(..=data.len()), rng.usize(..=other.len()));
        data.truncate(keep);
        data.extend_from_slice(&other[from..]);
    }
    for _ in 0..rng.usize(..8) {
        if !data.is_empty() {
            let at = rng.usize(..data.len());
            match rng.u8(..3) {
                0 => data[at] = rng.u8(..),
                1 => data.insert(at, rng.u8(..)),
                _ => drop(data.remove(at)),
            }
        }
    }
    data
}
