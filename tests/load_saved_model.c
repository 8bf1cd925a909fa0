/* Asks a SavedModel through TensorFlow's C API, as a server without Python does. tests/test_engines.py compiles it.
 *
 * load_saved_model FOLDER INPUT OUTPUT OUTPUT_INDEX bytes FILE COUNT            (each image: int64 length, bytes)
 * load_saved_model FOLDER INPUT OUTPUT OUTPUT_INDEX pixels FILE COUNT SIZE      (float32 [count, size, size, 3])
 *
 * Writes the output's float32 values to stdout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static void read_all(void *target, size_t bytes, FILE *file) {
  if (fread(target, 1, bytes, file) == bytes) return;
  fprintf(stderr, "the file with the images is too short\n");
  exit(2);
}

static void ignore(void *data, size_t length, void *argument) {}

int main(int count_of_words, char **words) {
  if (count_of_words < 8) return 2;
  const int is_bytes = strcmp(words[5], "bytes") == 0;
  const int64_t count = atoll(words[7]);
  FILE *file = fopen(words[6], "rb");
  if (!file) return 2;

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, words[1], tags, 1, graph, NULL, status);
  check(status, "load");

  TF_Tensor *given;
  TF_TString *texts = NULL;
  if (is_bytes) {
    texts = calloc(count, sizeof(TF_TString));
    for (int64_t i = 0; i < count; i++) {
      int64_t length;
      read_all(&length, sizeof length, file);
      char *data = malloc(length);
      read_all(data, length, file);
      TF_StringInit(&texts[i]);
      TF_StringCopy(&texts[i], data, length);
      free(data);
    }
    given = TF_NewTensor(TF_STRING, &count, 1, texts, count * sizeof(TF_TString), ignore, NULL);
  } else {
    const int64_t size = atoll(words[8]), shape[] = {count, size, size, 3};
    const size_t bytes = count * size * size * 3 * sizeof(float);
    given = TF_AllocateTensor(TF_FLOAT, shape, 4, bytes);
    read_all(TF_TensorData(given), bytes, file);
  }

  TF_Output input = {TF_GraphOperationByName(graph, words[2]), 0};
  TF_Output output = {TF_GraphOperationByName(graph, words[3]), atoi(words[4])};
  if (!input.oper || !output.oper) return 3;
  TF_Tensor *answer = NULL;
  TF_SessionRun(session, NULL, &input, &given, 1, &output, &answer, 1, NULL, 0, NULL, status);
  check(status, "run");
  fwrite(TF_TensorData(answer), 1, TF_TensorByteSize(answer), stdout);

  for (int64_t i = 0; texts && i < count; i++) TF_StringDealloc(&texts[i]);
  TF_DeleteTensor(answer);
  TF_DeleteTensor(given);
  free(texts);
  TF_DeleteSession(session, status);
  check(status, "close");
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  fclose(file);
  return 0;
}
