// Embeds aligned faces with an exported .tflite file on Android (LiteRT):
//
//     tf_sphereface-export embedder.keras --tflite --input uint8 --flip-concat --normalize --batch 1
//
// build.gradle.kts: implementation("com.google.ai.edge.litert:litert:VERSION"). The file and the JSON
// beside it are assets. Any export works that has the mirror image inside or does not want it.

import android.content.Context
import android.graphics.Bitmap
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.sqrt
import org.json.JSONArray
import org.json.JSONObject
import org.tensorflow.lite.Interpreter

class FaceEmbedder(context: Context) : AutoCloseable {
    private val metadata = JSONObject(
        context.assets.open("embedder.tflite.json").bufferedReader().use { it.readText() })
    private val height = metadata.getJSONArray("input_size").getInt(0)
    private val width = metadata.getJSONArray("input_size").getInt(1)
    private val raw = metadata.getString("input_dtype") == "uint8"
    private val bgr = metadata.getString("channel_order") == "bgr"
    private val dim = metadata.getInt("embedding_dim")
    private val interpreter: Interpreter

    init {
        require(metadata.getBoolean("flip_built_in") || metadata.getString("flip") == "none") {
            "export with --flip-concat, or run the mirror image too"
        }
        val bytes = context.assets.open("embedder.tflite").use { it.readBytes() }
        val model = ByteBuffer.allocateDirect(bytes.size).order(ByteOrder.nativeOrder()).put(bytes)
        interpreter = Interpreter(model, Interpreter.Options().setNumThreads(2))
        interpreter.resizeInput(0, intArrayOf(1, height, width, 3))
    }

    /** The embedding of an aligned face of the network's size. */
    fun embed(face: Bitmap): FloatArray {
        require(face.width == width && face.height == height) { "the face must be $width x $height" }
        val pixels = IntArray(width * height)
        face.getPixels(pixels, 0, width, 0, 0, width, height)
        val input = ByteBuffer.allocateDirect(pixels.size * 3 * (if (raw) 1 else 4))
            .order(ByteOrder.nativeOrder())
        for (pixel in pixels) {
            val rgb = intArrayOf(pixel shr 16 and 255, pixel shr 8 and 255, pixel and 255)
            for (channel in 0..2) {
                val value = rgb[if (bgr) 2 - channel else channel]
                if (raw) input.put(value.toByte())
                else input.putFloat((value - number("pixel_mean", channel)) / number("pixel_scale", channel))
            }
        }
        val output = arrayOf(FloatArray(dim))
        interpreter.run(input.rewind(), output)
        return output[0]
    }

    /** The cosine; the same person from metadata.getDouble("threshold") on, if there is one. */
    fun cosine(a: FloatArray, b: FloatArray): Float {
        fun dot(x: FloatArray, y: FloatArray) = x.indices.sumOf { (x[it] * y[it]).toDouble() }
        return (dot(a, b) / sqrt(dot(a, a) * dot(b, b))).toFloat()
    }

    private fun number(name: String, channel: Int): Float =
        (metadata.get(name) as? JSONArray)?.getDouble(channel)?.toFloat() ?: metadata.getDouble(name).toFloat()

    override fun close() = interpreter.close()
}
