//! The command line of examples/pingora: a Pingora proxy whose requests wait in this project's line.

use std::ffi::OsString;

use super::{Recipe, Setup};

pub(super) fn recipe(setup: &Setup<'_>) -> Recipe {
    let mut args: Vec<OsString> =
        std::iter::once(&setup.listen).chain(setup.dynos).map(|address| address.to_string().into()).collect();
    args.extend(["--threads".into(), setup.threads.to_string().into()]);
    args.extend(["--max-wait", "30", "--max-requests-per-dyno", "10000"].map(Into::into));
    if let Some(files) = setup.tls {
        args.extend(["--cert".into(), (&files.cert).into(), "--key".into(), (&files.key).into()]);
    }
    if setup.http2 {
        args.push("--http2".into());
    }
    Recipe { args, ..Recipe::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::{dynos, files, setup};

    #[test]
    fn it_gets_its_own_address_and_then_the_dynos() {
        let (dynos, files) = (dynos(2), files());
        let args = recipe(&setup(&dynos, false)).args;
        assert_eq!(args[..5], ["127.0.0.1:8080", "127.0.0.1:4100", "127.0.0.1:4101", "--threads", "2"]);
        let args = recipe(&Setup { tls: Some(&files), http2: true, ..setup(&dynos, false) }).args;
        assert!(
            args.ends_with(&["--cert", "/dir/cert.pem", "--key", "/dir/key.pem", "--http2"].map(Into::into))
        );
    }
}
