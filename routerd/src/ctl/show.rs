//! What a daemon answers, for people: tables, and a deploy in one line.

use std::time::Duration;

use serde_json::Value;

use crate::control::DeployView;

/// A column: its title and where its value stands in a row; one that no row has is left out.
type Column = (&'static str, &'static str);

/// A line of its own.
pub(super) fn line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(plain).collect();
    format!("{}\n", lines.join("\n"))
}

/// The daemon, its apps and their lines.
pub(super) fn status(page: &Value) -> String {
    let config = &page["config"];
    let ready = match page["reason"].as_str() {
        Some(reason) => format!("not ready: {reason}"),
        None => "ready".to_owned(),
    };
    let mut out = line(&format!("routerd {}, {ready}", cell(&page["version"])));
    let failed = match config["error"].as_str() {
        Some(error) => format!("; the last one failed: {error}"),
        None => String::new(),
    };
    let loaded = cell(&config["loaded"]);
    out += &line(&format!("configuration of {loaded}, {} reloads{failed}", cell(&config["reloads"])));
    let columns: [Column; 7] = [
        ("APP", "name"),
        ("RELEASE", "release"),
        ("BY", "source"),
        ("DYNOS", "dynos"),
        ("WAITING", "waiting"),
        ("DISPATCHED", "dispatched"),
        ("REFUSED", "refused"),
    ];
    let rows = rows(&page["apps"], |app| {
        let count = app["dynos"].as_array().map_or(0, Vec::len);
        app["dynos"] = count.into();
    });
    out + "\n" + &table(&columns, &rows) + &certificates(page)
}

/// The certificates, and how orders for more of them are doing; nothing where there are none.
fn certificates(page: &Value) -> String {
    let served: [Column; 4] =
        [("CERTIFICATE", "cert"), ("NAMES", "names"), ("EXPIRES", "expires"), ("TROUBLE", "error")];
    let ordered: [Column; 5] = [
        ("HOST BY ACME", "host"),
        ("EXPIRES", "expires"),
        ("NEXT ORDER", "next"),
        ("FAILED", "failures"),
        ("TROUBLE", "error"),
    ];
    let mut out = String::new();
    for (columns, list) in [(&served[..], &page["certificates"]), (&ordered[..], &page["acme"])] {
        let rows = rows(list, |_| {});
        if !rows.is_empty() {
            out += &format!("\n{}", table(columns, &rows));
        }
    }
    out
}

/// The apps.
pub(super) fn apps(apps: &Value) -> String {
    let columns = [
        ("APP", "name"),
        ("RELEASE", "release"),
        ("BY", "source"),
        ("MODE", "mode"),
        ("DEPLOY", "deploy"),
        ("DYNOS", "dynos"),
        ("WAITING", "waiting"),
    ];
    let rows = rows(apps, |app| {
        let counts = app["dynos"].as_object().into_iter().flatten();
        let counts: Vec<_> = counts.map(|(state, count)| format!("{count} {state}")).collect();
        app["dynos"] = if counts.is_empty() { "none".into() } else { counts.join(", ").into() };
        let deploy = &app["deploy"];
        if deploy.is_object() {
            app["deploy"] = format!("{} {}", cell(&deploy["new"]), words(&cell(&deploy["state"]))).into();
        }
    });
    table(&columns, &rows)
}

const DYNO: [Column; 7] = [
    ("APP", "app"),
    ("DYNO", "name"),
    ("ADDRESS", "address"),
    ("RELEASE", "release"),
    ("STATE", "state"),
    ("IN FLIGHT", "in_flight"),
    ("DISPATCHED", "dispatched"),
];

/// The dynos of an app.
pub(super) fn dynos(dynos: &Value) -> String {
    table(&DYNO, &rows(dynos, |_| {}))
}

/// The dynos of all apps, out of the status.
pub(super) fn all_dynos(page: &Value) -> String {
    let mut all = Vec::new();
    for app in page["apps"].as_array().into_iter().flatten() {
        all.extend(rows(&app["dynos"], |dyno| dyno["app"] = app["name"].clone()));
    }
    table(&DYNO, &all)
}

/// The releases of an app.
pub(super) fn releases(releases: &Value) -> String {
    let columns =
        [("RELEASE", "release"), ("NOW", "current"), ("SINCE", "since"), ("BY", "by"), ("DYNOS", "dynos")];
    let rows = rows(releases, |release| {
        let now = release["current"].as_bool().unwrap_or(false);
        release["current"] = if now { "serves".into() } else { "".into() };
    });
    table(&columns, &rows)
}

/// Deploys.
pub(super) fn deploys(deploys: &Value) -> String {
    let columns = [
        ("ID", "id"),
        ("APP", "app"),
        ("FROM", "old"),
        ("TO", "new"),
        ("STATE", "state"),
        ("BEGAN", "began"),
        ("BY", "by"),
        ("CAUSE", "cause"),
    ];
    table(&columns, &rows(deploys, |deploy| deploy["state"] = words(&cell(&deploy["state"])).into()))
}

/// Lines of the audit trail.
pub(super) fn audit(lines: &Value) -> String {
    let columns = [
        ("SEQ", "seq"),
        ("OF", "of"),
        ("TIME", "time"),
        ("WHO", "who"),
        ("FROM", "from"),
        ("WHAT", "what"),
        ("APP", "app"),
        ("OUTCOME", "outcome"),
        ("CAUSE", "cause"),
    ];
    table(&columns, &rows(lines, |_| {}))
}

/// What a check of the audit trail found.
pub(super) fn verified(found: &Value) -> String {
    line(&cell(&found["text"]))
}

/// A deploy as it stands, without the clock.
pub(super) fn progress(deploy: &DeployView) -> String {
    let DeployView { new_total, new_ready, new_serving, old_serving, old_left, .. } = deploy;
    let mut line = match deploy.state.as_str() {
        "staged" | "warming" | "ready" => {
            format!("{}: {new_ready} of {new_total} ready{}", deploy.state, trouble(deploy))
        }
        "canary" => format!("canary: {new_ready} of {new_total} serve its requests"),
        "cutting_over" => {
            format!("cutting over: {new_serving} of {new_total} serve, {old_serving} old ones still do")
        }
        "baking" => format!("baking: {new_serving} of {new_total} serve, alone and watched"),
        "draining" => format!("draining: {old_left} old ones finish their requests"),
        "rolling_back" => {
            format!("rolling back: {old_serving} old ones serve, {new_serving} new ones still do")
        }
        state => words(state),
    };
    if let Some(cause) = &deploy.cause {
        line = format!("{line}: {cause}");
    }
    plain(&line)
}

/// What is wrong with the first dyno that is not ready.
fn trouble(deploy: &DeployView) -> String {
    let mut slow = deploy.dynos.iter().filter(|dyno| dyno.side == "new");
    let slow = slow.find_map(|dyno| Some((&dyno.name, dyno.trouble.as_ref()?)));
    slow.map_or_else(String::new, |(name, trouble)| format!(" ({name}: {trouble})"))
}

/// How long the state may last, as the end of a line; empty if the clock does not end it.
pub(super) fn time_left(deploy: &DeployView) -> String {
    let Some(left) = deploy.deadline_ms.map(Duration::from_millis) else { return String::new() };
    match left.as_secs() {
        seconds @ 0..=120 => format!(", {seconds} s left"),
        seconds => format!(", {} min left", seconds / 60),
    }
}

/// How a deploy came out.
pub(super) fn outcome(deploy: &DeployView) -> String {
    let DeployView { app, old, new, .. } = deploy;
    let cause = deploy.cause.as_deref().unwrap_or("no cause is known");
    match deploy.state.as_str() {
        "done" => format!("{app}: {new} serves, with {} of {} dynos", deploy.new_serving, deploy.new_total),
        "canary" => format!(
            "{app}: {new} serves its canary{}\n\
             routerd ctl promote {app} lets it serve all, rollback {app} takes it back",
            time_left(deploy)
        ),
        "rolled_back" => format!("{app}: {old} serves again, {new} was taken back: {cause}"),
        "failed" => format!("{app}: the deploy of {new} failed: {cause}"),
        state => format!("{app}: the deploy of {new} is {}: {cause}", words(state)),
    }
}

/// The rows of a list, each made ready to be shown.
fn rows(list: &Value, ready: impl Fn(&mut Value)) -> Vec<Value> {
    let mut rows = list.as_array().cloned().unwrap_or_default();
    rows.iter_mut().for_each(ready);
    rows
}

/// Rows below the titles of their columns, aligned.
fn table(columns: &[Column], rows: &[Value]) -> String {
    if rows.is_empty() {
        return "none\n".to_owned();
    }
    let there = |column: &&Column| rows.iter().any(|row| !row[column.1].is_null());
    let columns: Vec<_> = columns.iter().filter(there).collect();
    let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|(_, key)| cell(&row[key])).collect());
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(cells).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (at, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
            text += &format!("{cell:width$}  ");
        }
        out += text.trim_end();
        out.push('\n');
    }
    out
}

/// A value as text; what is missing is a dash.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    };
    plain(&text)
}

/// A word of the machine's as people write it.
fn words(word: &str) -> String {
    word.replace('_', " ")
}

/// Nothing that a dyno or a stranger put into a text can steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::DeployDynoView;

    #[test]
    fn a_table_is_aligned_and_leaves_out_what_nobody_has() {
        let list = json!([
            { "id": 2, "app": "shop", "old": "v1", "new": "v42", "state": "cutting_over", "began": "x", "by": "ci" },
            { "id": 10, "app": "a", "old": "v1", "new": "v2", "state": "done", "began": "y", "by": "\u{1b}[2J" },
        ]);
        let expected = "\
ID  APP   FROM  TO   STATE         BEGAN  BY
2   shop  v1    v42  cutting over  x      ci
10  a     v1    v2   done          y       [2J
";
        assert_eq!(deploys(&list), expected);
        assert_eq!(deploys(&json!([])), "none\n");
    }

    #[test]
    fn the_status_ends_with_certificates_where_there_are_some() {
        let mut page = json!({
            "version": "1.0", "ready": true, "reason": null,
            "config": { "loaded": "x", "reloads": 0, "error": null },
            "certificates": [
                { "cert": "shop.pem", "names": ["shop.test", "*.shop.test"], "expires": "2026-12-24", "error": null },
            ],
            "acme": [{ "host": "a.test", "expires": null, "next": "soon", "failures": 2, "error": "the CA is down" }],
            "apps": [],
        });
        let expected = "\
routerd 1.0, ready
configuration of x, 0 reloads

none

CERTIFICATE  NAMES                  EXPIRES
shop.pem     shop.test,*.shop.test  2026-12-24

HOST BY ACME  NEXT ORDER  FAILED  TROUBLE
a.test        soon        2       the CA is down
";
        assert_eq!(status(&page), expected);
        page["certificates"] = json!([]);
        page["acme"] = json!([]);
        assert_eq!(status(&page), expected[..expected.find("\nCERT").unwrap()]);
    }

    #[test]
    fn a_deploy_in_one_line_says_what_it_waits_for() {
        let dyno = DeployDynoView {
            side: "new".to_owned(),
            name: "web.3".to_owned(),
            address: "127.0.0.1:3".to_owned(),
            stage: "warming".to_owned(),
            trouble: Some("status 503: migrating".to_owned()),
        };
        let mut deploy = DeployView {
            id: 1,
            app: "shop".to_owned(),
            old: "v42".to_owned(),
            new: "v43".to_owned(),
            state: "warming".to_owned(),
            since_ms: 19_000,
            deadline_ms: Some(41_000),
            by: "ci".to_owned(),
            began: "2026-11-22T00:00:00Z".to_owned(),
            ended: None,
            cause: None,
            new_total: 4,
            new_ready: 2,
            new_serving: 0,
            new_failed: 0,
            old_serving: 4,
            old_left: 4,
            old_given_up: 0,
            dynos: vec![dyno],
        };
        assert_eq!(progress(&deploy), "warming: 2 of 4 ready (web.3: status 503: migrating)");
        assert_eq!(time_left(&deploy), ", 41 s left");
        (deploy.state, deploy.deadline_ms) = ("canary".to_owned(), Some(3_540_000));
        assert_eq!(progress(&deploy) + &time_left(&deploy), "canary: 2 of 4 serve its requests, 59 min left");
        (deploy.state, deploy.cause) = ("rolled_back".to_owned(), Some("web.3 died".to_owned()));
        assert_eq!(outcome(&deploy), "shop: v42 serves again, v43 was taken back: web.3 died");
    }
}
