//! Configuration files: any bytes are a valid configuration or an error with a place, and nothing else.

use routerd::config::Config;

/// Reads the file.
///
/// # Panics
/// When an error has no words or no place in the file, or a valid configuration is read differently the second time.
pub fn run(data: &[u8]) {
    match Config::parse_bytes(data, "fuzz.toml") {
        Ok(config) => {
            assert!(!config.apps.is_empty(), "a configuration has an app");
            let again = Config::parse_bytes(data, "fuzz.toml");
            assert_eq!(again.as_ref().ok(), Some(&config), "the same file means the same");
        }
        Err(error) => {
            let words = error.to_string();
            assert!(words.starts_with("fuzz.toml"), "an error names the file: {words}");
            assert!(!error.problems().is_empty(), "an error says what is wrong");
            assert!(!error.render(false).contains('\u{1b}'), "a file cannot colour the terminal");
        }
    }
}
