// bind_image.h - how binding files make and take images.
#pragma once

#include "bind.h"
#include "image.h"

#define RV_IMAGE_MT "rl4vlm.Image"

/// Pushes a new userdata that holds "no image"; the caller fills it with a function of image.h.
rv_image *rv_bind_image_new(lua_State *L);

/// The image at `arg`; raises when there is none.
rv_image *rv_bind_image_check(lua_State *L, int arg);
