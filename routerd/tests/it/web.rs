//! What an app shows the world: its own pages for faults, and what it sends elsewhere.

mod auth;
mod compression;
mod pages;
mod redirects;
mod sticky;

use routerd::config::{Config, ConfigError};

use crate::support::{Answer, Client, Rig};

/// Sends the head of a GET with these lines and gives the answer.
async fn get(client: &mut Client, path: &str, lines: &str) -> Answer {
    client.send(format!("GET {path} HTTP/1.1\r\n{lines}\r\n\r\n")).await;
    client.answer().await
}

/// What is wrong with the keys of an app, as `column message`.
fn wrong(folder: &std::path::Path, app: &str) -> Vec<String> {
    let text = format!("[apps.shop]\nhosts = ['shop.test', 'www.shop.test']\n{app}");
    let file = folder.join("shop.toml");
    let error: ConfigError = Config::parse(&text, file.to_str().unwrap()).expect_err(app);
    error.problems().iter().map(|p| format!("{}:{} {}", p.line, p.column, p.message)).collect()
}

/// Puts another configuration in place and says what was different.
async fn reload(rig: &Rig, text: &str) -> String {
    let config = Config::parse(text, "test.toml").unwrap_or_else(|error| panic!("{error}"));
    rig.daemon.as_ref().unwrap().reload(config).await.unwrap().to_string()
}
