//! Rules of the house that no compiler holds: layers, sizes, maps, words that are banned, documents and manifests.
//!
//! Each check says which file breaks which rule. `UPDATE_DOCS=1 cargo test -p router-core --test tidy` writes
//! `routerd/docs/faults.md` anew.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/faults.rs"]
mod faults;
#[path = "tidy/manifests.rs"]
mod manifests;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;

use source::{Source, crate_files, read, root};

/// The crates that are held to the rules of files; the first two to those of layers.
const CRATES: [&str; 3] = ["router-core", "routerd", "fuzz"];
/// The crates whose `lib.rs` has a map, which is held against the tree.
const MAPPED: [&str; 2] = ["router-core", "routerd"];

const LINES_MOST: usize = 500;
const COLUMNS_MOST: usize = 120;

/// Fails with every finding, one a line.
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "{} findings:\n  {}", findings.len(), findings.join("\n  "));
}

fn each_file(check: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    CRATES.iter().flat_map(|name| crate_files(name)).flat_map(|file| check(&file)).collect()
}

#[test]
fn files_are_short_and_say_first_what_they_are() {
    none(each_file(|file| {
        let mut found = Vec::new();
        if !file.text.starts_with("//!") {
            found.push(format!("{}:1: the first line says what the file is, with //!", file.path));
        }
        if file.lines().count() > LINES_MOST {
            found.push(format!("{}: more than {LINES_MOST} lines; split it", file.path));
        }
        for (number, line) in file.lines() {
            if line.chars().count() > COLUMNS_MOST {
                found.push(format!("{}:{number}: more than {COLUMNS_MOST} columns", file.path));
            }
        }
        found
    }));
}

#[test]
fn nothing_unfinished_is_left_behind() {
    let banned = [
        (concat!("db", "g!("), "no debugging output"),
        (concat!("tod", "o!("), "no unfinished code"),
        (concat!("unimplement", "ed!("), "no unfinished code"),
        (concat!("#[ign", "ore]"), "an ignored test says why: #[ignore = \"...\"]"),
    ];
    none(each_file(|file| {
        let mut found = Vec::new();
        for (number, line) in file.lines() {
            for (word, rule) in banned.iter().filter(|(word, _)| line.contains(word)) {
                found.push(format!("{}:{number}: {word}: {rule}", file.path));
            }
            let note = concat!("TO", "DO");
            if line.contains(note) && !line.contains("issue ") {
                found.push(format!("{}:{number}: a {note} names its issue", file.path));
            }
        }
        found
    }));
}

#[test]
fn imports_go_down_only_in_the_order_of_lib_rs() {
    let mut found = Vec::new();
    for name in &CRATES[..2] {
        let order = modules(name);
        let place = |module: &str| order.iter().position(|known| known == module);
        for file in crate_files(name).iter().filter(|file| file.is_source()) {
            let Some(own) = place(file.top_module()) else { continue };
            for (number, line) in file.code() {
                for module in crate_paths(&line) {
                    if place(&module).is_some_and(|other| other < own) {
                        let top = file.top_module();
                        found.push(format!("{}:{number}: {top} stands below {module} in lib.rs", file.path));
                    }
                }
            }
        }
    }
    none(found);
}

/// The modules of a crate in the order of its `lib.rs`.
fn modules(name: &str) -> Vec<String> {
    let lib = read(&format!("{name}/src/lib.rs"));
    let declared = |line: &str| {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
    };
    lib.lines().filter_map(declared).collect()
}

/// The modules that a line names as `crate::module`.
fn crate_paths(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    line.split("crate::").skip(1).map(word).collect()
}

#[test]
fn the_runtime_and_http_stay_in_ring_3() {
    let mut found = Vec::new();
    for file in crate_files("router-core").iter().filter(|file| file.is_source()) {
        if ["proxy", "dns"].contains(&file.top_module()) {
            continue;
        }
        for (number, line) in file.code() {
            for library in ["tokio", "hyper", "hyper_util", "hickory_resolver"] {
                if line.contains(&format!("{library}::")) {
                    found.push(format!("{}:{number}: {library} belongs to proxy and dns alone", file.path));
                }
            }
        }
    }
    none(found);
}

#[test]
fn policy_is_pure() {
    let banned = [
        ("crate::sync", "takes no lock"),
        ("crate::clock", "reads no clock"),
        ("Instant::now", "reads no clock"),
        ("SystemTime", "reads no clock"),
        ("tokio", "does no I/O"),
        ("std::net::Tcp", "does no I/O"),
        ("HashMap", "has no hash order"),
        ("HashSet", "has no hash order"),
        ("fastrand", "draws no lots that are not seeded"),
        ("rand::", "draws no lots that are not seeded"),
    ];
    let mut found = Vec::new();
    for file in crate_files("router-core").iter().filter(|file| file.is_source()) {
        if file.top_module() != "policy" {
            continue;
        }
        for (number, line) in file.code_without_tests() {
            for (word, rule) in banned.iter().filter(|(word, _)| line.contains(word)) {
                found.push(format!("{}:{number}: {word}: policy {rule}", file.path));
            }
        }
    }
    none(found);
}

#[test]
fn the_maps_in_lib_rs_are_the_trees() {
    let mut found = Vec::new();
    for name in MAPPED {
        let lib = read(&format!("{name}/src/lib.rs"));
        let map: BTreeSet<String> = documents::map(&lib).into_iter().map(|(file, _)| file).collect();
        let files = crate_files(name);
        let tree: BTreeSet<String> = files.iter().filter_map(|file| file.in_map(name)).collect();
        found
            .extend(tree.difference(&map).map(|file| format!("{name}/src/lib.rs: {file} is not on the map")));
        found.extend(
            map.difference(&tree).map(|file| format!("{name}/src/lib.rs: {file} is not in the tree")),
        );
    }
    none(found);
}

#[test]
fn the_map_of_routerd_says_of_a_file_what_the_file_says_of_itself() {
    let mut found = Vec::new();
    for (file, words) in documents::map(&read("routerd/src/lib.rs")) {
        let own = documents::first_paragraph(&read(&format!("routerd/src/{file}")));
        if !own.strip_prefix(&words).is_some_and(|rest| rest.starts_with(['.', ':', ';', ','])) {
            found.push(format!("routerd/src/lib.rs: {file} is {words:?}, and it begins with {own:?}"));
        }
    }
    none(found);
}

#[test]
fn the_path_of_a_request_is_the_same_everywhere_and_names_files_that_exist() {
    let readme = documents::path_table(&read("README.md"));
    assert!(readme.len() > 5, "README.md has no table of the path of a request: {readme:?}");
    assert_eq!(
        readme,
        documents::path_table(&read("routerd/src/lib.rs")),
        "README.md and routerd/src/lib.rs"
    );
    let missing = |path: &String| !root().join(path).is_file();
    let named = readme.iter().flat_map(|row| documents::files(row)).filter(missing);
    none(named.map(|path| format!("the path of a request: {path} is not there")).collect());
}

#[test]
fn files_that_are_named_in_documents_exist() {
    let tree: Vec<String> = documents::tree();
    let mut found = Vec::new();
    for page in
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "routerd/src/lib.rs", "router-core/src/lib.rs"]
    {
        for file in documents::files(&read(page)) {
            // Within its context a file may be called by the end of its path alone.
            let end = format!("/{file}");
            if !tree.iter().any(|path| path.ends_with(&end)) {
                found.push(format!("{page}: there is no {file}"));
            }
        }
    }
    none(found);
}

#[test]
fn every_dependency_is_used_by_name() {
    none(manifests::MEMBERS.iter().flat_map(|member| manifests::unused(member)).collect());
}

#[test]
fn every_fault_stands_in_faults_md() {
    let path = root().join("routerd/docs/faults.md");
    let page = faults::page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "routerd/docs/faults.md is not what the code says: UPDATE_DOCS=1 cargo test -p router-core --test tidy"
    );
}
