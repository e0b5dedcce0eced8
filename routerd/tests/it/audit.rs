//! The audit trail as others read it: the recipe of the page, with a shell, `jq` and `sha256sum` alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use routerd::audit::{Asked, Audit, Keep, Outcome, verify};
use serde_json::json;

use crate::support::installed;

/// What the recipe of `docs/audit.md` prints for these files, and whether it ends well.
fn recipe(files: &[&Path]) -> (String, bool) {
    let page = include_str!("../../docs/audit.md");
    let script = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let output = Command::new("sh").args(["-c", script, "recipe"]).args(files).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (String::from_utf8(output.stdout).unwrap().trim_end().to_owned(), output.status.success())
}

#[test]
fn the_recipe_of_the_page_finds_what_verify_finds() {
    if !installed("jq", &["--version"]) || !installed("sha256sum", &["--version"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::open(&path, Keep { max_size: 1500, files: 9 }).unwrap();
    for n in 0..3 {
        let text = "a \"quoted\" ,\"hash\":\"y\"} \\ \u{1F980}\u{7f}";
        let after = json!({ "hash": "x", "text": text, "big": u64::MAX - n });
        let asked = Asked { who: "ci".into(), what: "deploy".into(), after: Some(after), ..Asked::default() };
        let seq = audit.begin(&asked).unwrap();
        audit.end(seq, &Outcome::done()).unwrap();
    }
    let older = path.with_extension("jsonl.1");
    let (verified, files) = (verify(&path).unwrap(), [older.as_path(), path.as_path()]);
    assert_eq!((verified.lines, verified.files), (6, 2));
    assert_eq!(recipe(&files), (verified.last.unwrap().hash, true));

    assert!(!recipe(&[&path, &older]).1, "in the wrong order");
    let whole = fs::read_to_string(&older).unwrap();
    for (harmed, says) in [
        (whole.replacen("\"deploy\"", "\"Deploy\"", 1), "1: changed"),
        (whole.split_inclusive('\n').skip(1).step_by(2).collect(), "4: does not follow the line before it"),
    ] {
        fs::write(&older, harmed).unwrap();
        assert_eq!(recipe(&files), (says.to_owned(), false));
        assert!(verify(&path).is_err());
    }
    let newest = fs::read_to_string(&path).unwrap();
    fs::write(&path, &newest[..newest.len() - 10]).unwrap();
    assert_eq!(recipe(&[&path]), ("the last line is torn".to_owned(), false));
}
