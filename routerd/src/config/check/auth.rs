//! The users of an app.

use std::ops::Range;

use super::Checker;
use crate::config::auth::{BasicAuth, User};
use crate::config::error::Problem;
use crate::config::file;
use crate::config::tls::read;
use crate::config::walk::clip;

impl Checker<'_> {
    /// Who has to show a password to the app of that name, if anybody has.
    pub(super) fn basic_auth(&mut self, app: &str, file: &file::BasicAuth) -> Option<BasicAuth> {
        let before = self.problems.len();
        let realm =
            self.text("basic_auth.realm", &file.realm, "ASCII without quotes and backslashes", |text| {
                let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
                text.bytes().all(plain).then(|| text.to_owned()).ok_or("this cannot be a realm")
            });
        let realm = realm.filter(|realm| !realm.is_empty());
        let mut users = Vec::new();
        for text in file.users.value().into_iter().flatten() {
            self.user(text.as_str(), "users", text.span(), &mut users);
        }
        let users_file = file.users_file.value().filter(|path| !path.is_empty());
        let users_file = users_file.map(|path| self.folder.join(path));
        let named = file.users_file.span().filter(|_| users_file.is_some());
        if let (Some(path), Some(span)) = (&users_file, &named) {
            let no_text = |_| "the file is no UTF-8 text".to_owned();
            match read(path).and_then(|bytes| String::from_utf8(bytes).map_err(no_text)) {
                Ok(text) => self.users_of(&text, span, &mut users),
                Err(why) => {
                    let problem = Problem::new(span.clone(), format!("basic_auth.users_file: {why}"));
                    self.problem(problem.found(format!("this is {}", clip(&path.display().to_string()))));
                }
            }
        }
        if users.is_empty() {
            let switched_off = file.users.value().is_some_and(Vec::is_empty) && users_file.is_none();
            let wanted = named.or_else(|| file.realm.span().filter(|_| realm.is_some()));
            let told = self.problems.len() > before;
            if let Some(span) = wanted.filter(|_| !switched_off && !told && self.whole) {
                let problem = Problem::new(span, "basic_auth: there are no users, so nobody could come in");
                self.problem(problem.help("add users, or users = [] for no passwords at all"));
            }
            return None;
        }
        Some(BasicAuth { realm: realm.unwrap_or_else(|| app.to_owned()), users, users_file })
    }

    fn users_of(&mut self, text: &str, span: &Range<usize>, users: &mut Vec<User>) {
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if !line.is_empty() && !line.starts_with('#') {
                self.user(line, &format!("users_file: line {}", at + 1), span.clone(), users);
            }
        }
    }

    /// Says nothing of a hash, which is half a password.
    fn user(&mut self, line: &str, place: &str, span: Range<usize>, users: &mut Vec<User>) {
        let (why, help) = match User::parse(line) {
            Ok(user) if users.iter().any(|other| other.name == user.name) => {
                (format!("the user {} is there twice", clip(&user.name)), "leave out one of them".to_owned())
            }
            Ok(user) => return users.push(user),
            Err(why) => (why.to_owned(), format!("allowed: {}", User::ALLOWED)),
        };
        self.problem(Problem::new(span, format!("basic_auth.{place}: {why}")).help(help));
    }
}
