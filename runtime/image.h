/* Image files: PNG, JPEG, PGM/PPM (binary), .npy (u8 or f32, C order). */
#ifndef QNET_RUNTIME_IMAGE_H
#define QNET_RUNTIME_IMAGE_H

#include "ir/blob.h"
#include "support/diag.h"

/* Reads a file by its content into a blob of rank 3 (H,W,C) of u8, or of the .npy's own rank and
 * dtype (u8, f32). channels: 1 or 3 wanted, images are converted (luma by ITU-R 601). The file's
 * size and pixel count are bounded (64 MiB). */
qnet_status qnet_image_read(const qnet_allocator *a, const char *path, int channels,
                            qnet_blob **out, qnet_diag *d);

#endif
