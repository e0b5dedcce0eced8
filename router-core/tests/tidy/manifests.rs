//! What manifests ask for, and whether the sources use it.

use crate::source::{crate_files, read};

/// The members of the workspace.
pub(crate) const MEMBERS: [&str; 6] =
    ["router-core", "routerd", "benches", "examples", "examples/pingora", "fuzz"];

/// The dependencies of a member that none of its sources names.
pub(crate) fn unused(member: &str) -> Vec<String> {
    let manifest: toml::Table = read(&format!("{member}/Cargo.toml")).parse().unwrap();
    let code: Vec<(String, String)> = crate_files(member)
        .iter()
        .filter(|file| member == "examples/pingora" || !file.path.starts_with("examples/pingora/"))
        .map(|file| (file.path.clone(), file.code().map(|(_, line)| line + "\n").collect()))
        .collect();
    let mut found = Vec::new();
    // What only tests and benches use belongs to the second.
    for (section, folders) in [("dependencies", &["src", "fuzz_targets"][..]), ("dev-dependencies", &[""])] {
        let is_there =
            |path: &str| folders.iter().any(|folder| path.starts_with(&format!("{member}/{folder}")));
        let named = manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten();
        for (name, _) in named {
            let used = code.iter().any(|(path, code)| is_there(path) && names(code, &name.replace('-', "_")));
            if !used {
                found.push(format!("{member}/Cargo.toml: {name} in [{section}] is not used"));
            }
        }
    }
    found
}

/// Whether code names a crate as `name::`, and not as the end of another path (`crate::name::`) or word.
fn names(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}
