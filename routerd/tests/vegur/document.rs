//! `docs/vegur.md` says where each case of vegur's suite has gone: it must name tests that are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Cases of vegur's suite.
const CASES: usize = 162;

/// The rows of the document: case, and what has become of it.
fn rows(text: &str) -> Vec<(&str, &str)> {
    text.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | ")).collect()
}

/// `module::test` of every test in this directory.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vegur")).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line == "#[tokio::test]" {
                let signature = lines.next().unwrap_or_default();
                let name =
                    signature.strip_prefix("async fn ").and_then(|rest| rest.split('(').next()).unwrap();
                found.insert(format!("{module}::{name}"));
            }
        }
    }
    found
}

#[test]
fn every_case_is_named_once_and_every_test_it_names_is_there() {
    let text = include_str!("../../docs/vegur.md");
    let rows = rows(text);
    let cases: BTreeSet<_> = rows.iter().map(|(case, _)| case).collect();
    assert_eq!((rows.len(), cases.len()), (CASES, CASES));
    let tests = tests();
    assert!(tests.len() > 100, "only {} tests found", tests.len());
    for (case, fate) in rows {
        let known = ["ours: `", "different: "];
        assert!(known.iter().any(|word| fate.starts_with(word)), "{case}: {fate}");
        assert!(!fate.starts_with("ours") || fate.contains("::"), "{case} names no test");
        for name in fate.split('`').filter(|word| word.contains("::")) {
            assert!(tests.contains(name), "{case}: there is no test {name}");
        }
    }
}

#[test]
fn every_test_stands_for_a_case_or_is_listed_as_one_of_our_own() {
    let text = include_str!("../../docs/vegur.md");
    let missing: Vec<_> = tests().into_iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in docs/vegur.md: {missing:#?}");
}
