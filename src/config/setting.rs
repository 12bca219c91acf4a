//! What a setting is, and the macro that declares settings.

use std::fmt;

/// The heading that a setting is listed under. The order is that of the help text and of the reference page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Which pods are scraped.
    Pods,
    /// How targets are scraped.
    Scraping,
    /// Limits of targets and of responses.
    Limits,
    /// The HTTP listener.
    Serving,
    /// Pebble and the secret.
    Pebble,
    /// Intervals and delays.
    Intervals,
    /// Logging.
    Logging,
}

impl Group {
    /// Returns the heading.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "Pods",
            Self::Scraping => "Scraping",
            Self::Limits => "Limits",
            Self::Serving => "Serving",
            Self::Pebble => "Pebble and the secret",
            Self::Intervals => "Intervals",
            Self::Logging => "Logging",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag without dashes.
    pub name: &'static str,
    /// Variables that are kept for compatibility, besides `METRICS_PROXY_<FLAG>`.
    pub older_env: &'static [&'static str],
    /// The word for the value in help texts.
    pub value: &'static str,
    /// The default; empty if there is none.
    pub default: &'static str,
    /// Whether the flag may be given several times. In a variable, values are separated by commas.
    pub repeatable: bool,
    /// The heading.
    pub group: Group,
    /// One or two sentences.
    pub help: &'static str,
}

impl Setting {
    /// Returns the variables that set it. The first one that is set wins.
    pub fn env_names(&self) -> Vec<String> {
        let own = format!("METRICS_PROXY_{}", self.name.to_uppercase().replace('-', "_"));
        std::iter::once(own)
            .chain(self.older_env.iter().map(|name| (*name).to_owned()))
            .collect()
    }

    /// Returns whether the flag may stand alone, which means `true`.
    pub fn is_switch(&self) -> bool {
        self.value == "BOOL"
    }
}

/// Declares a section of the configuration: a struct, the settings that fill it, and how they are read.
///
/// A setting is declared once, as a row:
///
/// ```text
/// required timeout: Duration = positive_duration, Scraping "timeout" ["SCRAPE_TIMEOUT"] "DURATION" "9s",
///     "Longest wait for the targets of one response.";
/// |        |        |          |                  |        |         |                  |          default, or ""
/// |        |        |          |                  |        |         older variables    word for the value
/// |        |        |          |                  group    flag
/// |        field    type       parser (config::parse)
/// how it is read: required, optional, nullable, repeated (methods of Reader)
/// ```
///
/// The help text is the documentation of the field as well. `derived` fields are read from several settings, whose rows
/// stand under `rows`.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $section:ident, $table:ident {
            $($read:ident $field:ident: $type:ty = $parse:ident,
                $group:ident $name:literal $env:tt $value:literal $default:literal, $help:literal;)*
        }
        derived { $($(#[$derived_meta:meta])* $derived:ident: $derived_type:ty = $derive:expr;)* }
        rows { $($row_group:ident $row:literal $row_env:tt $row_value:literal $row_default:literal, $row_help:literal;)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $section {
            $(#[doc = $help] pub $field: $type,)*
            $($(#[$derived_meta])* pub $derived: $derived_type,)*
        }

        impl $section {
            pub(super) fn read(reader: &mut $crate::config::reader::Reader<'_>) -> Self {
                Self {
                    $($field: reader.$read($name, $crate::config::parse::$parse),)*
                    $($derived: $derive(reader),)*
                }
            }
        }

        const $table: &[Setting] = &[
            $(Setting {
                name: $name,
                older_env: &$env,
                value: $value,
                default: $default,
                repeatable: matches!(stringify!($read).as_bytes(), b"repeated"),
                group: Group::$group,
                help: $help,
            },)*
            $(Setting {
                name: $row,
                older_env: &$row_env,
                value: $row_value,
                default: $row_default,
                repeatable: false,
                group: Group::$row_group,
                help: $row_help,
            },)*
        ];
    };
}

pub(super) use settings;
