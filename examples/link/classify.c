/* Links a compiled network: reads images (H,W,C bytes, one after the other) from standard input and
 * prints the class of each.
 *   qnetc fashion.qnet --weights=fashion.safetensors --target=aarch64 -o fashion.o
 *   aarch64-linux-gnu-gcc -O2 -static classify.c fashion.o -o classify */
#include "fashion.h"
#include <stdio.h>

static int argmax(const float *x, int n) {
  int best = 0;
  for (int i = 1; i < n; i++)
    if (x[i] > x[best]) best = i;
  return best;
}

int main(void) {
  static _Alignas(FASHION_ARENA_ALIGN) unsigned char arena[FASHION_ARENA_BYTES];
  unsigned char image[FASHION_INPUT_BYTES];
  float logits[FASHION_OUTPUT_COUNT];
  while (fread(image, 1, sizeof image, stdin) == sizeof image) {
    if (fashion_run(image, logits, arena) != 0) return 1;
    printf("%d\n", argmax(logits, FASHION_OUTPUT_COUNT));
  }
  return 0;
}
