//! Source files as the checks of tidy see them.

use std::path::{Path, PathBuf};

/// One file: where it is from the root of the workspace, and its text.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file of a crate.
pub(crate) fn crate_files(name: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join(name), name, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no files: is the path right?");
    paths.into_iter().map(|path| Source { text: read(&path), path }).collect()
}

fn walk(folder: &Path, name: &str, paths: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let file = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{name}/{file}");
        if entry.file_type().unwrap().is_dir() {
            if file != "target" {
                walk(&entry.path(), &path, paths);
            }
        } else if file.ends_with(".rs") {
            paths.push(path);
        }
    }
}

impl Source {
    /// Lines with their numbers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Lines without comments.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(number, line)| (number, uncommented(line)))
    }

    /// Lines without comments, up to the tests at the end of the file.
    pub(crate) fn code_without_tests(&self) -> Vec<(usize, String)> {
        if self.is_test() {
            return Vec::new();
        }
        let inline = |lines: &[&str]| lines[0].trim() == "#[cfg(test)]" && lines[1].ends_with('{');
        let lines: Vec<_> = self.text.lines().collect();
        let end = lines.windows(2).position(inline).unwrap_or(lines.len());
        self.code().take_while(|(number, _)| *number <= end).collect()
    }

    /// Whether its parent declares it under `#[cfg(test)]` or a condition with `test` in it.
    pub(crate) fn is_test(&self) -> bool {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or_default();
        let module = format!("mod {};", file.trim_end_matches(".rs"));
        let parent = std::fs::read_to_string(root().join(format!("{folder}.rs"))).unwrap_or_default();
        let lines: Vec<_> = parent.lines().map(str::trim).collect();
        lines.windows(2).any(|pair| {
            let tests = pair[0].starts_with("#[cfg(test)]") || pair[0].starts_with("#[cfg(all(test");
            tests && pair[1] == module
        })
    }

    /// Whether it is in `src`.
    pub(crate) fn is_source(&self) -> bool {
        self.path.split('/').nth(1) == Some("src")
    }

    /// The module of `lib.rs` that the file belongs to.
    pub(crate) fn top_module(&self) -> &str {
        self.path.split('/').nth(2).unwrap_or_default().trim_end_matches(".rs")
    }

    /// The file as the map names it, if it belongs there: tests and `lib.rs` itself do not.
    pub(crate) fn in_map(&self, name: &str) -> Option<String> {
        let path = self.path.strip_prefix(&format!("{name}/src/"))?;
        (path != "lib.rs" && path != "main.rs" && !self.is_test()).then(|| path.to_owned())
    }
}

fn uncommented(line: &str) -> String {
    line.split("//").next().unwrap_or_default().to_owned()
}
