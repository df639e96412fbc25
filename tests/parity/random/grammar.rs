//! Random configurations: nested locations, rewrites, conditions, maps, error pages, files to try.

use super::dice::Dice;
use super::tree::Node;

/// A configuration's `http` block, with names of its locations for requests to ask for.
pub fn http(dice: &mut Dice) -> Vec<Node> {
    let mut grammar = Grammar { dice, aliased: false, map: usize::MAX };
    let mut nodes = vec![Node::line(&[
        "log_format",
        "r",
        "\"$http_x_n $status $request_method $uri|$server_name|$v1|$seg\"",
    ])];
    nodes.push(Node::line(&["access_log", "{{log}}", "r"]));
    nodes.push(Node::line(&["root", "{{root}}"]));
    for n in 1..=3 {
        grammar.map = n;
        let map = grammar.map(n);
        nodes.push(map);
    }
    grammar.map = usize::MAX;
    grammar.settings(&mut nodes, 25);
    let servers = grammar.dice.weighted(&[0, 6, 2, 1]);
    for n in 0..servers {
        let server = grammar.server(n);
        nodes.push(server);
    }
    nodes
}

struct Grammar<'d> {
    dice: &'d mut Dice,
    /// Whether the location, or one around it, has an `alias`.
    aliased: bool,
    /// The number of the map being made; its values are of maps before it.
    map: usize,
}

/// What kind of block directives stand in.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Server,
    Location,
    /// A location without a URI of its own.
    Named,
    /// `if` in a server or in a location.
    IfInServer,
    IfInLocation,
}

const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/",
    "/b",
    "/b/",
    "/c",
    "/d/",
    "/x.txt",
    "/index.html",
    "/a/index.html",
    "/404.html",
    "/img",
    "/A",
    "\"/a b\"",
    "/go",
    "/go/",
    "/page",
];

const REGEXES: &[&str] = &[
    "^/a",
    "\\.txt$",
    "\\.(html|txt)$",
    "^/(a|b)/(.*)$",
    "^/(?<seg>[^/]+)/(?<rest>.*)$",
    "/b/",
    "^/([a-d])$",
    "index",
    "^(/.*)/$",
    "^/go/(.*)$",
    "[A-C]",
    "(?i)^/IMG",
    "^/(?!a)",
    "/x",
    "^/(?<seg>.)",
    "^",
    "^(.*)$",
    " ",
];

const VARIABLES: &[&str] = &[
    "$uri",
    "$uri",
    "$args",
    "$is_args",
    "$query_string",
    "$arg_a",
    "$arg_b",
    "$arg_m1",
    "$arg_m2",
    "$arg_m3",
    "$host",
    "$http_x_a",
    "$cookie_c",
    "$request_method",
    "$request_uri",
    "$document_uri",
    "$document_root",
    "$request_filename",
    "$server_name",
    "$server_port",
    "$scheme",
    "$status",
    "$1",
    "$1",
    "$2",
    "$9",
    "$seg",
    "$rest",
    "$sub",
    "$m1",
    "$m2",
    "$m3",
    "$v1",
    "$v2",
    "$http_host",
    "$server_protocol",
    "$content_length",
    "$content_type",
    "$remote_addr",
    "$realpath_root",
    "$https",
    "$http_none",
];

impl Grammar<'_> {
    fn server(&mut self, n: usize) -> Node {
        let mut nodes = vec![Node::line(&["listen", "{{listen}}"])];
        if n > 0 || self.dice.chance(60) {
            let mut words = vec!["server_name"];
            for _ in 0..1 + self.dice.below(2) {
                let name = match n {
                    0 => self.dice.pick(&["localhost", "example.com", "*.example.com", "\"\"", "first"]),
                    1 => self.dice.pick(&[
                        "www.example.com",
                        ".example.org",
                        "www.example.*",
                        "\"~^(?<sub>\\w+)\\.re\\.example$\"",
                    ]),
                    _ => self.dice.pick(&["third", "\"~^(.+)\\.net$\"", "*.a.example.org"]),
                };
                if !words.contains(&name) {
                    words.push(name);
                }
            }
            nodes.push(Node::line(&words));
        }
        if self.dice.chance(10) {
            nodes.push(Node::line(&["merge_slashes", "off"]));
        }
        self.settings(&mut nodes, 40);
        self.rewriting(&mut nodes, Place::Server, 25);
        if self.dice.chance(8) {
            let try_files = self.try_files();
            nodes.push(try_files);
        }
        let mut taken = vec![];
        for _ in 0..2 + self.dice.below(6) {
            nodes.extend(self.location("", false, 0, &mut taken));
        }
        for name in ["@n1", "@n2"] {
            if self.dice.chance(85) {
                let body = self.body(Place::Named, name, false, 1);
                nodes.push(Node::block(&["location", name], body));
            }
        }
        // What is used anywhere must be known somewhere.
        nodes.push(Node::block(
            &["location", "=", "/-/known"],
            vec![
                Node::line(&["set", "$v1", "\"\""]),
                Node::line(&["set", "$v2", "\"\""]),
                Node::block(&["if", "($uri", "~", "\"(?<seg>-)(?<rest>k)(?<sub>n)\")"], vec![]),
            ],
        ));
        Node::block(&["server"], nodes)
    }

    /// A location below `parent`, unless there is one of that name already.
    fn location(
        &mut self,
        parent: &str,
        in_regex: bool,
        depth: usize,
        taken: &mut Vec<String>,
    ) -> Option<Node> {
        let kind = if in_regex { 3 + self.dice.below(2) } else { self.dice.weighted(&[10, 4, 3, 5, 2]) };
        let modifier = ["", "=", "^~", "~", "~*"][kind];
        let is_regex = kind > 2;
        let name = if is_regex {
            format!("\"{}\"", self.dice.pick(REGEXES))
        } else if parent.is_empty() {
            self.dice.pick(PATHS).to_owned()
        } else {
            let more = self.dice.pick(&["", "/", "/b", "b", "/x.txt", "x.txt", "/b/", "index.html"]);
            let bare = parent.trim_matches('"');
            if bare.contains(' ') { format!("\"{bare}{more}\"") } else { format!("{bare}{more}") }
        };
        let known = format!(
            "{}{name}",
            if is_regex {
                modifier
            } else if kind == 1 {
                "="
            } else {
                ""
            }
        );
        if taken.contains(&known) {
            return None;
        }
        taken.push(known);
        let outside = self.aliased;
        let mut body = self.body(Place::Location, &name, is_regex, depth);
        if depth < 2 && kind != 1 {
            let mut inner = vec![];
            while self.dice.chance(if depth == 0 { 35 } else { 20 }) {
                let parent = if is_regex { "" } else { &name };
                body.extend(self.location(parent, is_regex, depth + 1, &mut inner));
            }
        }
        self.aliased = outside;
        let mut words = vec!["location", modifier, &name];
        words.retain(|w| !w.is_empty());
        Some(Node::block(&words, body))
    }

    /// What stands in a location, but for locations.
    fn body(&mut self, place: Place, name: &str, is_regex: bool, depth: usize) -> Vec<Node> {
        let mut nodes = vec![];
        match self.dice.below(10) {
            0..=1 if place == Place::Location => {
                let target = if is_regex {
                    self.dice.pick(&[
                        "{{root}}/other/$1",
                        "{{root}}/other$uri",
                        "{{root}}/x.txt",
                        "{{root}}/$seg",
                    ])
                } else if name.ends_with('/') {
                    self.dice.pick(&["{{root}}/other/", "{{root}}/a/", "{{root}}/$arg_a/", "{{root}}/"])
                } else {
                    self.dice.pick(&["{{root}}/other", "{{root}}/a", "{{root}}/x.txt", "{{root}}/other/"])
                };
                nodes.push(Node::line(&["alias", target]));
                self.aliased = true;
            }
            2..=3 => {
                let root = self.dice.pick(&["{{root}}/other", "{{root}}/a", "{{root}}/$arg_b", "{{root}}/"]);
                nodes.push(Node::line(&["root", root]));
            }
            _ => {}
        }
        if place == Place::Location && self.dice.chance(8) {
            nodes.push(Node::line(&["internal"]));
        }
        self.settings(&mut nodes, 30);
        if self.dice.chance(25) {
            let try_files = self.try_files();
            nodes.push(try_files);
        }
        self.rewriting(&mut nodes, place, 45);
        if self.dice.chance(20) {
            // An answer that says where the request went; in a location it ends the rewriting.
            let text =
                format!("\"{}{} {}\"", name.trim_matches('"').replace(['$', '\\'], ""), depth, self.text());
            nodes.push(Node::line(&["return", self.dice.pick(&["200", "200", "200", "201", "404"]), &text]));
        } else if self.dice.chance(8) {
            nodes.push(self.limits());
        } else if self.dice.chance(8) && !(self.aliased && name.ends_with('/')) {
            let uri = self.dice.pick(&["", "", "/", "/up/", "/up", "$uri", "/up?q=1", "/$arg_a"]);
            let uri =
                if place == Place::Named || is_regex { self.dice.pick(&["", "$request_uri"]) } else { uri };
            nodes.push(Node::line(&["proxy_pass", &format!("http://{{{{upstream}}}}{uri}")]));
        }
        nodes
    }

    fn limits(&mut self) -> Node {
        if self.dice.chance(40) {
            let methods = self.dice.pick(&["GET", "POST", "HEAD"]);
            return Node::block(&["limit_except", methods], vec![Node::line(&["deny", "all"])]);
        }
        Node::line(&[
            self.dice.pick(&["deny", "deny", "allow"]),
            self.dice.pick(&["all", "127.0.0.1", "10.0.0.0/8"]),
        ])
    }

    /// Directives that are inherited, each level with its own.
    fn settings(&mut self, nodes: &mut Vec<Node>, percent: usize) {
        let mut seen = vec![];
        while self.dice.chance(percent) {
            let node = match self.dice.weighted(&[6, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1]) {
                0 => self.error_page(),
                1 => self.index(),
                2 => self.add_header(),
                3 => Node::line(&["recursive_error_pages", "on"]),
                4 => Node::line(&["absolute_redirect", "off"]),
                5 => Node::line(&["server_name_in_redirect", "on"]),
                6 => Node::line(&["port_in_redirect", "off"]),
                7 => Node::line(&[
                    "default_type",
                    self.dice.pick(&["text/plain", "x/y", "\"\"", "\"$arg_a\""]),
                ]),
                8 => Node::line(&["etag", "off"]),
                9 => Node::line(&["expires", self.dice.pick(&["epoch", "max", "off", "-1", "$m1"])]),
                10 => Node::line(&["max_ranges", self.dice.pick(&["0", "1"])]),
                _ => Node::block(&["types"], vec![Node::line(&["x/z", "txt"])]),
            };
            let name = node.words[0].clone();
            let repeats = ["error_page", "add_header"].contains(&name.as_str());
            if repeats || !seen.contains(&name) {
                nodes.push(node);
            }
            seen.push(name);
        }
    }

    fn error_page(&mut self) -> Node {
        let mut words = vec!["error_page".to_owned()];
        for _ in 0..1 + self.dice.below(2) {
            words.push(
                self.dice
                    .pick(&[
                        "404", "404", "404", "403", "403", "405", "418", "500", "502", "410", "301", "302",
                        "400",
                    ])
                    .to_owned(),
            );
        }
        if self.dice.chance(45) {
            words.push(self.dice.pick(&["=", "=200", "=404", "=301", "=302", "=204", "=503"]).to_owned());
        }
        let target = match self.dice.below(8) {
            0 => "/404.html".into(),
            1 => "/a/".into(),
            2 => self.named().to_owned(),
            3 => self
                .dice
                .pick(&["http://e.example/", "http://e.example$request_uri", "https://$host/$arg_a"])
                .into(),
            4 => self
                .dice
                .pick(&["/none", "\"/x.txt?$args\"", "\"/go/$status\"", "\"$uri.html\"", "\"/$arg_a\""])
                .into(),
            5 => self.dice.pick(PATHS).to_owned(),
            _ => self.uri(),
        };
        words.push(target);
        Node { words, block: None }
    }

    fn index(&mut self) -> Node {
        let mut words = vec!["index"];
        for _ in 0..1 + self.dice.below(3) {
            words.push(self.dice.pick(&[
                "index.html",
                "x.txt",
                "y.html",
                "/x.txt",
                "$arg_a.html",
                "none",
                "/go/i",
                "b/x.txt",
            ]));
        }
        Node::line(&words)
    }

    fn add_header(&mut self) -> Node {
        let name = self.dice.pick(&["X-H", "X-Other", "Cache-Control", "Last-Modified", "ETag"]);
        let value = if name.starts_with('X') || name.starts_with('C') { self.text() } else { "".into() };
        let value = format!("\"{value}\"");
        let mut words = vec!["add_header", name, &value];
        if self.dice.chance(30) {
            words.push("always");
        }
        Node::line(&words)
    }

    fn try_files(&mut self) -> Node {
        let mut words = vec!["try_files".to_owned()];
        for _ in 0..1 + self.dice.below(3) {
            words.push(
                self.dice
                    .pick(&[
                        "$uri",
                        "$uri",
                        "$uri",
                        "$uri/",
                        "$uri/",
                        "$uri.html",
                        "/x.txt",
                        "/$arg_a",
                        "/a/",
                        "/none",
                        "$uri/index.html",
                        "/$1",
                        "/a$uri",
                        "\"$uri.txt\"",
                        "/$seg/x.txt",
                        "$document_uri",
                        "x.txt",
                    ])
                    .to_owned(),
            );
        }
        words.push(match self.dice.below(6) {
            0 => self.dice.pick(&["=404", "=204", "=403", "=500", "=418", "=301"]).to_owned(),
            1 => self.named().to_owned(),
            2 => self
                .dice
                .pick(&[
                    "/index.html",
                    "\"/go/x?$args\"",
                    "\"/a/?q=$uri&$args\"",
                    "/none",
                    "$uri",
                    "\"/b/x.txt?\"",
                ])
                .to_owned(),
            3 => self.dice.pick(PATHS).to_owned(),
            _ => self.uri(),
        });
        Node { words, block: None }
    }

    fn named(&mut self) -> &'static str {
        self.dice.pick(&["@n1", "@n1", "@n1", "@n2", "@n2", "@n2", "@none"])
    }

    /// Directives of the rewrite module, in the order in which they run.
    fn rewriting(&mut self, nodes: &mut Vec<Node>, place: Place, percent: usize) {
        while self.dice.chance(percent) {
            let in_if = matches!(place, Place::IfInServer | Place::IfInLocation);
            let node = match self.dice.weighted(&[5, 5, 1, 1, if in_if { 0 } else { 6 }]) {
                0 => self.rewrite(),
                1 => {
                    let value = format!("\"{}\"", self.text());
                    Node::line(&["set", self.dice.pick(&["$v1", "$v2", "$v1", "$v2", "$args"]), &value])
                }
                2 if self.aliased => continue,
                2 => Node::line(&["break"]),
                // Outside of a condition, little is left to look at after it.
                3 if !in_if && self.dice.chance(70) => continue,
                3 => self.return_(),
                _ => self.condition(if place == Place::Server {
                    Place::IfInServer
                } else {
                    Place::IfInLocation
                }),
            };
            nodes.push(node);
        }
    }

    fn rewrite(&mut self) -> Node {
        let regex = format!("\"{}\"", self.dice.pick(REGEXES));
        let to = format!(
            "\"{}\"",
            self.dice.pick(&[
                "/a/$1",
                "/b/$1?$args",
                "/x.txt",
                "/$1.html",
                "/go/$2/$1?r=$1",
                "/c?",
                "/b/x.txt?p=$uri",
                "$1",
                "/a b/$1",
                "http://e.example/$1",
                "https://$host$uri",
                "$scheme://$host/z/$1?",
                "/%20/$1",
                "/$seg",
                "/$arg_a",
                "$uri/",
                "$v1",
                "/a//$1/../b",
                "/a/b/?a=$m1&b=2",
                "$document_uri?v=$v2",
                "/a?x?y",
            ])
        );
        let flag = self.dice.pick(&["", "last", "last", "break", "break", "redirect", "permanent"]);
        let flag = if self.aliased && flag.is_empty() { "last" } else { flag };
        let mut words = vec!["rewrite", &regex, &to, flag];
        words.retain(|w| !w.is_empty());
        Node::line(&words)
    }

    fn return_(&mut self) -> Node {
        let code = self.dice.pick(&[
            "200", "201", "204", "299", "301", "302", "303", "304", "307", "308", "400", "401", "403", "404",
            "405", "410", "418", "444", "451", "500", "502", "503", "504", "600",
        ]);
        if self.dice.chance(15) {
            let url = format!(
                "\"{}\"",
                self.dice.pick(&["http://e.example/$1", "https://$host$request_uri", "$scheme://x/"])
            );
            return Node::line(&["return", &url]);
        }
        if self.dice.chance(35) {
            return Node::line(&["return", code]);
        }
        let text = match self.dice.below(4) {
            0 => self.uri(),
            1 => "\"\"".into(),
            _ => format!("\"{}\"", self.text()),
        };
        Node::line(&["return", code, &text])
    }

    fn condition(&mut self, place: Place) -> Node {
        // `$1` is no variable here.
        let variable = std::iter::repeat_with(|| self.dice.pick(VARIABLES))
            .find(|v| !v.ends_with(|c: char| c.is_ascii_digit()) || v.len() > 2)
            .expect("most of them are names")
            .to_owned();
        let head = match self.dice.below(8) {
            0 => vec![format!("({variable})")],
            1..=2 => {
                let value = self.dice.pick(&["a", "\"\"", "/a", "\"$v1\"", "GET", "b", "0", "\"$arg_b\""]);
                let operator = self.dice.pick(&["=", "!="]);
                vec![format!("({variable}"), operator.to_owned(), format!("{value})")]
            }
            3..=5 => {
                let regex = self.dice.pick(REGEXES);
                let operator = self.dice.pick(&["~", "~", "~*", "!~", "!~*"]);
                vec![format!("({variable}"), operator.to_owned(), format!("\"{regex}\")")]
            }
            _ => {
                let test = self.dice.pick(&["-f", "!-f", "-d", "!-d", "-e", "!-e", "-x", "!-x"]);
                let path = self.dice.pick(&[
                    "$request_filename",
                    "$request_filename",
                    "$document_root/a$uri",
                    "$document_root/$arg_a",
                    "{{root}}/x.txt",
                    "\"$request_filename.html\"",
                ]);
                vec![format!("({test}"), format!("{path})")]
            }
        };
        let mut block = vec![];
        self.rewriting(&mut block, place, 50);
        if self.dice.chance(25) {
            let node = self.return_();
            block.push(node);
        }
        if place == Place::IfInLocation && self.dice.chance(35) {
            let node = match self.dice.below(4) {
                0..=1 => self.add_header(),
                2 => self.error_page(),
                _ => Node::line(&["root", self.dice.pick(&["{{root}}/other", "{{root}}/a"])]),
            };
            block.push(node);
        }
        let mut words = vec!["if".to_owned()];
        words.extend(head);
        Node { words, block: Some(block) }
    }

    fn map(&mut self, n: usize) -> Node {
        let source = match n {
            1 => self.dice.pick(&[
                "$arg_a",
                "$uri",
                "$host",
                "$http_x_a",
                "$request_method",
                "\"$arg_a$arg_b\"",
                "$v1",
            ]),
            _ => self.dice.pick(&[
                "$m1",
                "$arg_b",
                "$uri",
                "$host",
                "\"$1\"",
                "\"$m1-$host\"",
                "$args",
                "$seg",
            ]),
        };
        let mut block = vec![];
        let hostnames = self.dice.chance(if source.contains("host") { 70 } else { 10 });
        if hostnames {
            block.push(Node::line(&["hostnames"]));
        }
        if self.dice.chance(20) {
            block.push(Node::line(&["volatile"]));
        }
        let mut keys = vec![];
        for _ in 0..self.dice.below(6) {
            let key = if hostnames && self.dice.chance(80) {
                self.dice.pick(&[
                    "localhost",
                    "*.example.com",
                    ".example.org",
                    "www.example.*",
                    "\"~^(?<sub>\\w+)\\.example\"",
                    "EXAMPLE.com",
                    "example.com.",
                ])
            } else {
                self.dice.pick(&[
                    "a",
                    "b",
                    "A",
                    "\"\"",
                    "/a",
                    "~^/a",
                    "~*B",
                    "\"~^/(?<seg>[^/]+)\"",
                    "~.",
                    "GET",
                    "\"~^(.)(.*)$\"",
                    "\\default",
                    "1",
                    "~x",
                    "/x.txt",
                    "\"a b\"",
                ])
            };
            if !keys.contains(&key.to_ascii_lowercase()) {
                keys.push(key.to_ascii_lowercase());
                let value = self.value();
                block.push(Node::line(&[key, &value]));
            }
        }
        if self.dice.chance(60) {
            let value = self.value();
            block.push(Node::line(&["default", &value]));
        }
        Node::block(&["map", source, &format!("$m{n}")], block)
    }

    /// The value of a map.
    fn value(&mut self) -> String {
        match self.dice.below(6) {
            0 => "\"\"".into(),
            1 => "0".into(),
            2 => self.dice.pick(&["/x.txt", "/a", "a", "b", "/go/m"]).to_owned(),
            _ => format!("\"{}\"", self.text()),
        }
    }

    /// A variable that has a value here.
    fn variable(&mut self) -> &'static str {
        loop {
            let variable = self.dice.pick(VARIABLES);
            let map = variable.strip_prefix("$m").and_then(|n| n.parse::<usize>().ok());
            if map.is_none_or(|n| n < self.map) {
                return variable;
            }
        }
    }

    /// A text with variables in it, to be quoted.
    fn text(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.dice.below(3) {
            if self.dice.chance(40) {
                text.push_str(self.dice.pick(&["x", "-", "/", "a", "b c", "%20", "?", ":", "."]));
                // What follows must not become a part of a name.
            } else {
                let variable = self.variable();
                text.push_str(variable);
                text.push_str(self.dice.pick(&["", "|", "-", "/"]));
            }
        }
        // A map may change the captures after nginx has taken their lengths.
        if text.contains("$m") && ["$1", "$2", "$9"].iter().any(|capture| text.contains(capture)) {
            text = text.replace("$m", "$arg_m");
        }
        separated(&text)
    }

    /// A URI with variables in it, quoted.
    fn uri(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.dice.below(3) {
            text.push('/');
            text.push_str(self.dice.pick(&[
                "a",
                "b",
                "c",
                "go",
                "x.txt",
                "$1",
                "$arg_a",
                "$uri",
                "$v1",
                "$seg",
                "index.html",
            ]));
        }
        if self.dice.chance(30) {
            text.push_str(self.dice.pick(&["?", "?a=1", "?$args", "?u=$uri", "/"]));
        }
        format!("\"{text}\"")
    }
}

/// The text, with names of variables that a letter follows in braces.
fn separated(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            out.push('$');
            continue;
        }
        let known = VARIABLES
            .iter()
            .filter_map(|v| v.strip_prefix('$'))
            .filter(|v| rest.starts_with(v))
            .max_by_key(|v| v.len());
        let name = known.unwrap_or_default();
        out.push_str("${");
        out.push_str(name);
        out.push('}');
        rest = &rest[name.len()..];
    }
    out + rest
}
