// host.h - the program around the modules: options, scripts, Ctrl-C, where our files lie.
//
// main.c calls rv_host_main and nothing else. The pieces: host_args.c reads the command line,
// host_root.c finds our files, host_run.c runs chunks as the standalone lua does, host_strict.c
// watches undeclared globals, host_text.c speaks of wrong options, host.c puts them together.
#pragma once

#include <stdbool.h>

#include "bind.h"

/// Runs the program. Returns its exit status.
int rv_host_main(int argc, char **argv);

// ---- host_root.c ----

/// The running program's path; the folder that holds lua/, envs/, recipes/ and models/: the source
/// tree beside a build folder, ../share/rl4vlm of an installed program, or $RL4VLM_ROOT. "" when
/// not found.
const char *rv_host_exe(lua_State *L);
const char *rv_host_root(lua_State *L);

/// Finds both and keeps them in the registry; called once, before the modules are opened.
void rv_host_find(lua_State *L);

/// The script that `path` names: itself, or where there is none, the file of that name among ours,
/// so that recipes/points24.lua is found from any working directory.
const char *rv_host_script(lua_State *L, const char *path);

/// Puts our Lua files before the standard package.path, the root's envs, recipes and models behind.
void rv_host_set_path(lua_State *L);

/// Lets `require` find modules beside the script `path` first.
void rv_host_add_script_folder(lua_State *L, const char *path);

// ---- host_run.c ----

/// Calls the function under `narg` arguments with a traceback on errors and Ctrl-C armed; leaves
/// `nres` results or one message.
int rv_host_call(lua_State *L, int narg, int nres);

/// Prints "rl4vlm: message" to stderr and pops it when `status` is an error; returns `status`.
int rv_host_report(lua_State *L, int status);

/// While deferred, Ctrl-C only sets rv_intr_flag and raises no error. Returns the setting before.
bool rv_host_defer_interrupt(bool on);

/// Forgets a Ctrl-C that was handled.
void rv_host_clear_interrupt(lua_State *L);

// ---- host_strict.c ----

/// Begins to record uses of undeclared globals; ends it and forgets them (a plain script).
void rv_host_globals_watch(lua_State *L);
void rv_host_globals_free(lua_State *L);

/// Makes every further use an error (a recipe). Returns false with one message on the stack when
/// there were some already.
bool rv_host_globals_strict(lua_State *L);

// ---- host_text.c ----

/// Prints to stderr what is wrong with argument `bad`, and how to call us.
void rv_host_print_usage(const char *bad);
