//! What documents say of files: maps, the path of a request, and names in passing.

use crate::source::{crate_files, root};

/// The rows of the map in a `lib.rs`: file and words.
pub(crate) fn map(lib: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let (file, words) = line.strip_prefix("//! | `")?.strip_suffix(" |")?.split_once("` | ")?;
        file.ends_with(".rs").then(|| (file.to_owned(), words.to_owned()))
    };
    lib.lines().filter_map(row).collect()
}

/// The first paragraph of a file's own description, as one line.
pub(crate) fn first_paragraph(text: &str) -> String {
    let words = text.lines().map_while(|line| line.strip_prefix("//! "));
    words.collect::<Vec<_>>().join(" ")
}

/// The rows of the table that leads a request from file to file.
pub(crate) fn path_table(page: &str) -> Vec<String> {
    let lines = page.lines().map(|line| line.trim_start_matches("//! "));
    lines
        .skip_while(|line| *line != "| step | where |")
        .take_while(|line| line.starts_with('|'))
        .map(str::to_owned)
        .collect()
}

/// The files of ours that a text names between backticks, `{a,b}.rs` as two.
pub(crate) fn files(text: &str) -> Vec<String> {
    let is_path = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./{,}".contains(c));
    let is_file = |name: &&str| name.ends_with(".rs") || name.ends_with(".md");
    // Odd parts stand between backticks; a line has an even number of them.
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(is_path).filter(is_file).flat_map(expand).collect()
}

fn expand(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (names, after))) => {
            names.split(',').map(|name| format!("{before}{name}{after}")).collect()
        }
        None => vec![path.to_owned()],
    }
}

/// Every Rust file and every page, as `/path/from/the/root`.
pub(crate) fn tree() -> Vec<String> {
    let folders = ["router-core", "routerd", "benches", "examples", "fuzz"];
    let mut tree: Vec<String> =
        folders.iter().flat_map(|name| crate_files(name)).map(|file| format!("/{}", file.path)).collect();
    for folder in [".", "routerd/docs"] {
        let pages = std::fs::read_dir(root().join(folder)).unwrap();
        tree.extend(pages.map(|page| format!("/{folder}/{}", page.unwrap().file_name().to_string_lossy())));
    }
    tree
}
