//! The filters of the page: `?state=&namespace=&q=&page=&refresh=`.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Which rows a person wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::server) struct Query {
    /// `up`, `down`, `unknown`, `skipped`, or everything.
    pub(super) state: Option<String>,
    pub(super) namespace: Option<String>,
    /// Words that must all occur in a row.
    pub(super) search: String,
    /// From 1.
    pub(super) page: usize,
    /// Seconds between two reloads of the page.
    pub(super) refresh_seconds: Option<u16>,
}

impl Query {
    /// Reads the query of a URL. Unknown parts are ignored.
    pub(in crate::server) fn parse(query: &str) -> Self {
        let mut parsed = Self {
            page: 1,
            ..Self::default()
        };
        for (name, value) in query.split('&').filter_map(|part| part.split_once('=')) {
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy().into_owned();
            match name {
                "state" if ["up", "down", "unknown", "skipped"].contains(&value.as_str()) => {
                    parsed.state = Some(value);
                }
                "namespace" if !value.is_empty() => parsed.namespace = Some(value),
                "q" => parsed.search = value,
                "page" => parsed.page = value.parse().unwrap_or(1).max(1),
                "refresh" => parsed.refresh_seconds = value.parse().ok().filter(|seconds| *seconds > 0),
                _ => {}
            }
        }
        parsed
    }

    /// The query as a link that starts with a question mark.
    pub(super) fn link(&self) -> String {
        let page = (self.page > 1).then(|| self.page.to_string());
        let refresh = self.refresh_seconds.map(|seconds| seconds.to_string());
        let search = Some(self.search.clone()).filter(|search| !search.is_empty());
        let parts = [
            ("state", self.state.clone()),
            ("namespace", self.namespace.clone()),
            ("q", search),
            ("page", page),
            ("refresh", refresh),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter_map(|(name, value)| {
                Some(format!(
                    "{name}={}",
                    utf8_percent_encode(&value?, NON_ALPHANUMERIC)
                ))
            })
            .collect();
        format!("?{}", parts.join("&"))
    }

    /// The same filters with another state, from the first page.
    pub(super) fn with_state(&self, state: Option<&str>) -> Self {
        Self {
            state: state.map(str::to_owned),
            page: 1,
            ..self.clone()
        }
    }

    /// Whether a row is wanted, apart from its state.
    pub(super) fn matches(&self, namespace: &str, text: &str) -> bool {
        let text = text.to_lowercase();
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self
                .search
                .to_lowercase()
                .split_whitespace()
                .all(|word| text.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_the_query_that_it_was_made_of() {
        for link in [
            "?",
            "?state=down&namespace=shop&q=a%20b%26c&page=3",
            "?q=%C3%A4&refresh=5",
        ] {
            assert_eq!(Query::parse(&link[1..]).link(), link);
        }
    }

    #[test]
    fn odd_values_are_ignored() {
        let query = Query::parse("state=other&page=0&refresh=0&x&q=a+b&namespace=");
        let expect = Query {
            search: "a b".to_owned(),
            page: 1,
            ..Query::default()
        };
        assert_eq!(query, expect);
    }

    #[test]
    fn all_words_must_occur() {
        let query = Query::parse("q=WEB+404&namespace=shop");
        assert!(query.matches("shop", "shop/web-0 HTTP status 404"));
        assert!(!query.matches("shop", "shop/web-0 HTTP status 500"));
        assert!(!query.matches("other", "web 404"));
    }
}
