std = "lua54"
max_line_length = 120
files["tests"] = { max_line_length = 140 }
files["tests/lua"] = { std = "lua54+busted", max_line_length = 140 }
files["tests/runner"] = { std = "lua54+busted" }
files["lua/meta"] = { ignore = { "212", "241", "631" } }
